package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

func anthropicCases(url, key string) map[string]func(Target) {
	client := anthropic.NewClient(
		option.WithBaseURL(url), option.WithAPIKey(key),
		option.WithMaxRetries(0), option.WithRequestTimeout(30*time.Second),
	)
	a := anthropicProbe{client, context.Background()}
	return map[string]func(Target){
		"whole": a.whole, "streamed": a.streamed, "tools": a.tools, "tools_streamed": a.toolsStreamed,
		"tools_parallel": a.toolsParallel, "structured": a.structured, "image": a.image,
		"image_url": a.imageURL, "image_url_refused": a.imageURLRefused,
		"count_tokens": a.countTokens, "batch": a.batch, "models": a.models,
		"bad_request": a.badRequest, "unauthorized": a.unauthorized, "not_found": a.notFound,
		"rate_limited": a.rateLimited, "unavailable": a.unavailable, "too_long": a.tooLong,
	}
}

type anthropicProbe struct {
	client anthropic.Client
	ctx    context.Context
}

func message(target Target, more Fields) anthropic.MessageNewParams {
	return params[anthropic.MessageNewParams](with(Fields{
		"model": target.Model, "max_tokens": script.MaxTokens,
		"system":   []any{Fields{"type": "text", "text": script.System}},
		"messages": []any{says(script.Prompt)},
	}, more))
}

func says(content any) Fields {
	if text, plain := content.(string); plain {
		content = []any{Fields{"type": "text", "text": text}}
	}
	return Fields{"role": "user", "content": content}
}

func textOf(message *anthropic.Message) (text string) {
	for _, block := range message.Content {
		text += block.Text
	}
	return text
}

func callsOf(message *anthropic.Message) (calls []anthropic.ToolUseBlock) {
	for _, block := range message.Content {
		if block.Type == "tool_use" {
			calls = append(calls, block.AsToolUse())
		}
	}
	return calls
}

func (a anthropicProbe) ask(asked anthropic.MessageNewParams) *anthropic.Message {
	return must(a.client.Messages.New(a.ctx, asked))
}

// stream gathers a whole stream as the client itself does.
func (a anthropicProbe) stream(asked anthropic.MessageNewParams) *anthropic.Message {
	stream, gathered, last := a.client.Messages.NewStreaming(a.ctx, asked), anthropic.Message{}, ""
	for stream.Next() {
		last = stream.Current().Type
		check(gathered.Accumulate(stream.Current()))
	}
	check(stream.Err())
	is(last == "message_stop", "an end: %s", last)
	return &gathered
}

func (a anthropicProbe) whole(target Target) {
	var answered *http.Response
	answer := must(a.client.Messages.New(
		a.ctx, message(target, nil), option.WithResponseInto(&answered),
	))
	is(answer.Type == "message" && answer.Role == "assistant" && answer.ID != "", "a message")
	is(textOf(answer) != "", "a text")
	is(answer.StopReason == "end_turn" || answer.StopReason == "max_tokens", "an end")
	is(answer.Usage.InputTokens > 0 && answer.Usage.OutputTokens > 0, "usage")
	is(answer.Usage.OutputTokens <= script.MaxTokens, "the limit")
	is(answered.Header.Get("x-weir-model") == target.Model, "the model's name")
	is(answered.Header.Get("x-weir-request-id") != "", "an id of the call")
	is(answered.Header.Get("x-weir-route") != "", "a route")
}

func (a anthropicProbe) streamed(target Target) {
	final, answer := a.stream(message(target, nil)), a.ask(message(target, nil))
	is(textOf(final) == textOf(answer), "the same text")
	is(final.StopReason == answer.StopReason, "the same end")
	is(final.Usage.OutputTokens == answer.Usage.OutputTokens, "the same usage")
}

func offering(functions []Function, more Fields) Fields {
	tools := []any{}
	for _, one := range functions {
		tools = append(tools, Fields{
			"name": one.Name, "description": one.Description, "input_schema": one.Parameters,
		})
	}
	return with(Fields{"tools": tools, "max_tokens": script.ToolTokens}, more)
}

// after is the conversation once the tools of an answer have been run.
func after(asked anthropic.MessageNewParams, answer *anthropic.Message) anthropic.MessageNewParams {
	results := []anthropic.ContentBlockParamUnion{}
	for _, call := range callsOf(answer) {
		results = append(results, anthropic.NewToolResultBlock(call.ID, script.ToolResult, false))
	}
	asked.Messages = append(asked.Messages, answer.ToParam(), anthropic.NewUserMessage(results...))
	asked.ToolChoice = anthropic.ToolChoiceUnionParam{}
	return asked
}

func (a anthropicProbe) called(answer *anthropic.Message) {
	is(answer.StopReason == "tool_use", "the end is %s", answer.StopReason)
	calls := callsOf(answer)
	is(len(calls) == 1 && calls[0].Name == script.Weather.Name, "one call")
	place(string(calls[0].Input))
}

func (a anthropicProbe) tools(target Target) {
	forced := Fields{"tool_choice": Fields{"type": "any"}}
	asked := message(target, offering([]Function{script.Weather}, forced))
	answer := a.ask(asked)
	a.called(answer)
	is(textOf(a.ask(after(asked, answer))) != "", "an answer")
}

func (a anthropicProbe) toolsStreamed(target Target) {
	forced := Fields{"tool_choice": Fields{"type": "any"}}
	a.called(a.stream(message(target, offering([]Function{script.Weather}, forced))))
}

func (a anthropicProbe) toolsParallel(target Target) {
	var asked anthropic.MessageNewParams
	var answer *anthropic.Message
	for number := range script.ParallelPrompts {
		messages := []any{says(fmt.Sprintf("%s %d", script.Prompt, number))}
		both := []Function{script.Weather, script.Time}
		asked = message(target, offering(both, Fields{"messages": messages}))
		answer = a.ask(asked)
		if len(callsOf(answer)) == 2 {
			break
		}
	}
	calls, streamed := callsOf(answer), callsOf(a.stream(asked))
	is(len(calls) == 2 && len(streamed) == 2, "ever two calls at once")
	for number, call := range calls {
		is(streamed[number].Name == call.Name, "the same tool")
		is(equal(string(streamed[number].Input), string(call.Input)), "the same arguments")
	}
	is(textOf(a.ask(after(asked, answer))) != "", "an answer")
}

func (a anthropicProbe) structured(target Target) {
	form := Fields{"type": "json_schema", "schema": script.Weather.Parameters}
	place(textOf(a.ask(message(target, Fields{
		"max_tokens": script.ToolTokens, "output_config": Fields{"format": form},
	}))))
}

func shown(target Target, source Fields) anthropic.MessageNewParams {
	parts := []any{
		Fields{"type": "image", "source": source}, Fields{"type": "text", "text": script.Prompt},
	}
	return message(target, Fields{"messages": []any{says(parts)}})
}

func (a anthropicProbe) image(target Target) {
	source := Fields{"type": "base64", "media_type": "image/png", "data": script.Pixel}
	is(textOf(a.ask(shown(target, source))) != "", "an answer")
}

func (a anthropicProbe) imageURL(target Target) {
	source := Fields{"type": "url", "url": script.PictureURL}
	is(textOf(a.ask(shown(target, source))) != "", "an answer")
}

func (a anthropicProbe) imageURLRefused(target Target) {
	source := Fields{"type": "url", "url": script.PictureURL}
	a.refused(400, "invalid_request_error", shown(target, source))
}

func (a anthropicProbe) countTokens(target Target) {
	asked := params[anthropic.MessageCountTokensParams](Fields{
		"model": target.Model, "messages": []any{says(script.Prompt)},
	})
	is(must(a.client.Messages.CountTokens(a.ctx, asked)).InputTokens > 0, "tokens")
}

func (a anthropicProbe) batch(target Target) {
	requests := []any{}
	for _, name := range names() {
		requests = append(requests, Fields{"custom_id": name, "params": message(target, nil)})
	}
	made := must(a.client.Messages.Batches.New(
		a.ctx, params[anthropic.MessageBatchNewParams](Fields{"requests": requests}),
	))
	until(func() bool {
		made = must(a.client.Messages.Batches.Get(a.ctx, made.ID, anthropic.MessageBatchGetParams{}))
		return made.ProcessingStatus == "ended"
	})
	is(made.RequestCounts.Succeeded == int64(script.BatchLines), "every line")
	seen := []string{}
	results := a.client.Messages.Batches.ResultsStreaming(
		a.ctx, made.ID, anthropic.MessageBatchResultsParams{},
	)
	for results.Next() {
		row := results.Current()
		found := row.Result.AsSucceeded().Message
		is(textOf(&found) != "", "an answer")
		seen = append(seen, row.CustomID)
	}
	check(results.Err())
	is(same(seen, names()), "every line once")
}

func (a anthropicProbe) models(target Target) {
	listed := false
	pages := a.client.Models.ListAutoPaging(a.ctx, anthropic.ModelListParams{})
	for pages.Next() {
		listed = listed || pages.Current().ID == target.Model
	}
	check(pages.Err())
	is(listed, "listed")
	found := must(a.client.Models.Get(a.ctx, target.Model, anthropic.ModelGetParams{}))
	is(found.ID == target.Model, "found")
}

// refused returns the answer of the error that a call must raise.
func (a anthropicProbe) refused(
	status int, name string, asked anthropic.MessageNewParams, by ...option.RequestOption,
) *http.Response {
	_, err := a.client.Messages.New(a.ctx, asked, by...)
	var fault *anthropic.Error
	is(errors.As(err, &fault), "an error of the API: %v", err)
	refused(status, fault.Response, fault.StatusCode)
	var body struct {
		Type  string
		Error struct{ Type, Message string }
	}
	check(json.Unmarshal([]byte(fault.RawJSON()), &body))
	is(body.Type == "error" && body.Error.Message != "", "an error: %s", fault.RawJSON())
	is(name == "" || body.Error.Type == name, "it is %s", body.Error.Type)
	return fault.Response
}

func (a anthropicProbe) badRequest(target Target) {
	nobody := option.WithJSONSet("messages", []any{Fields{"role": "nobody", "content": "x"}})
	a.refused(400, "invalid_request_error", message(target, nil), nobody)
}

func (a anthropicProbe) unauthorized(target Target) {
	a.refused(401, "authentication_error", message(target, nil), option.WithAPIKey("wrong"))
}

func (a anthropicProbe) notFound(target Target) {
	for _, model := range []string{target.Name + "/no-such-model", "no-such-vendor/no-such-model"} {
		a.refused(404, "not_found_error", message(target, Fields{"model": model}))
	}
}

func (a anthropicProbe) rateLimited(target Target) {
	waits(a.refused(429, "rate_limit_error", message(target, Fields{"model": target.Limited})))
}

func (a anthropicProbe) unavailable(target Target) {
	waits(a.refused(503, "", message(target, Fields{"model": target.Away})))
}

func (a anthropicProbe) tooLong(target Target) {
	a.refused(400, "invalid_request_error", message(target, Fields{"model": target.Full}))
}
