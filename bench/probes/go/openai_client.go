package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
)

func openaiCases(url, key string) map[string]func(Target) {
	client := openai.NewClient(
		option.WithBaseURL(url+"/v1"), option.WithAPIKey(key),
		option.WithMaxRetries(0), option.WithRequestTimeout(30*time.Second),
	)
	o := openaiProbe{client, context.Background()}
	return map[string]func(Target){
		"whole": o.whole, "streamed": o.streamed, "tools": o.tools, "tools_streamed": o.toolsStreamed,
		"tools_parallel": o.toolsParallel, "structured": o.structured, "image": o.image,
		"image_url": o.imageURL, "image_url_refused": o.imageURLRefused, "completions": o.completions,
		"responses": o.responses, "embeddings": o.embeddings, "moderation": o.moderation,
		"picture": o.picture, "speech": o.speech, "transcription": o.transcription, "batch": o.batch,
		"models": o.models, "bad_request": o.badRequest, "unauthorized": o.unauthorized,
		"not_found": o.notFound, "rate_limited": o.rateLimited, "unavailable": o.unavailable,
		"too_long": o.tooLong,
	}
}

type openaiProbe struct {
	client openai.Client
	ctx    context.Context
}

func chat(target Target, more Fields) openai.ChatCompletionNewParams {
	return params[openai.ChatCompletionNewParams](with(Fields{
		"model": target.Model, "messages": turns(script.Prompt), "max_tokens": script.MaxTokens,
	}, more))
}

func turns(prompt string) []any {
	return []any{
		Fields{"role": "system", "content": script.System},
		Fields{"role": "user", "content": prompt},
	}
}

func tool(function Function) Fields { return Fields{"type": "function", "function": function} }

func (o openaiProbe) ask(asked openai.ChatCompletionNewParams) openai.ChatCompletionChoice {
	return must(o.client.Chat.Completions.New(o.ctx, asked)).Choices[0]
}

// stream gathers a whole stream with the client's own accumulator.
func (o openaiProbe) stream(asked openai.ChatCompletionNewParams) openai.ChatCompletion {
	stream, gathered := o.client.Chat.Completions.NewStreaming(o.ctx, asked), openai.ChatCompletionAccumulator{}
	for stream.Next() {
		is(gathered.AddChunk(stream.Current()), "a chunk that fits")
	}
	check(stream.Err())
	return gathered.ChatCompletion
}

func (o openaiProbe) whole(target Target) {
	var answered *http.Response
	answer := must(o.client.Chat.Completions.New(
		o.ctx, chat(target, nil), option.WithResponseInto(&answered),
	))
	choice, usage := answer.Choices[0], answer.Usage
	is(answer.Object == "chat.completion" && answer.ID != "", "a completion")
	is(choice.Message.Role == "assistant" && choice.Message.Content != "", "a message")
	is(choice.FinishReason == "stop" || choice.FinishReason == "length", "an end")
	is(usage.PromptTokens > 0 && usage.CompletionTokens > 0, "usage")
	is(usage.CompletionTokens <= script.MaxTokens, "the limit")
	is(usage.TotalTokens == usage.PromptTokens+usage.CompletionTokens, "the sum")
	is(answered.Header.Get("x-weir-model") == target.Model, "the model's name")
	is(answered.Header.Get("x-weir-request-id") != "", "an id of the call")
	is(answered.Header.Get("x-weir-route") != "", "a route")
}

func (o openaiProbe) streamed(target Target) {
	final := o.stream(chat(target, Fields{"stream_options": Fields{"include_usage": true}}))
	answer := must(o.client.Chat.Completions.New(o.ctx, chat(target, nil)))
	is(final.Choices[0].Message.Content == answer.Choices[0].Message.Content, "the same text")
	is(final.Choices[0].FinishReason == answer.Choices[0].FinishReason, "the same end")
	is(final.Usage.CompletionTokens == answer.Usage.CompletionTokens, "the same usage")
}

func asking(more Fields) Fields {
	return with(Fields{"tools": []any{tool(script.Weather)}, "max_tokens": script.ToolTokens}, more)
}

func (o openaiProbe) tools(target Target) {
	choice := o.ask(chat(target, asking(Fields{"tool_choice": "required"})))
	is(choice.FinishReason == "tool_calls", "the end is %s", choice.FinishReason)
	call := choice.Message.ToolCalls[0]
	is(call.Function.Name == script.Weather.Name, "the tool is %s", call.Function.Name)
	place(call.Function.Arguments)
	after := chat(target, asking(nil))
	after.Messages = append(
		after.Messages, choice.Message.ToParam(), openai.ToolMessage(script.ToolResult, call.ID),
	)
	is(o.ask(after).Message.Content != "", "an answer")
}

func (o openaiProbe) toolsStreamed(target Target) {
	choice := o.stream(chat(target, asking(Fields{"tool_choice": "required"}))).Choices[0]
	is(choice.FinishReason == "tool_calls", "the end is %s", choice.FinishReason)
	is(choice.Message.ToolCalls[0].Function.Name == script.Weather.Name, "the tool")
	place(choice.Message.ToolCalls[0].Function.Arguments)
}

func (o openaiProbe) toolsParallel(target Target) {
	var asked openai.ChatCompletionNewParams
	var message openai.ChatCompletionMessage
	both := []any{tool(script.Weather), tool(script.Time)}
	for number := range script.ParallelPrompts {
		messages := turns(fmt.Sprintf("%s %d", script.Prompt, number))
		asked = chat(target, asking(Fields{"messages": messages, "tools": both}))
		message = o.ask(asked).Message
		if len(message.ToolCalls) == 2 {
			break
		}
	}
	is(len(message.ToolCalls) == 2, "ever two calls at once")
	streamed := o.stream(asked).Choices[0].Message.ToolCalls
	asked.Messages = append(asked.Messages, message.ToParam())
	for number, call := range message.ToolCalls {
		is(streamed[number].Function.Name == call.Function.Name, "the same tool")
		is(equal(streamed[number].Function.Arguments, call.Function.Arguments), "the same arguments")
		asked.Messages = append(asked.Messages, openai.ToolMessage(script.ToolResult, call.ID))
	}
	is(o.ask(asked).Message.Content != "", "an answer")
}

// equal compares two JSON texts by what they mean.
func equal(left, right string) bool {
	var one, other any
	check(json.Unmarshal([]byte(left), &one))
	check(json.Unmarshal([]byte(right), &other))
	return bytes.Equal(must(json.Marshal(one)), must(json.Marshal(other)))
}

func (o openaiProbe) structured(target Target) {
	form := Fields{"name": "place", "strict": true, "schema": script.Weather.Parameters}
	choice := o.ask(chat(target, Fields{
		"max_tokens":      script.ToolTokens,
		"response_format": Fields{"type": "json_schema", "json_schema": form},
	}))
	place(choice.Message.Content)
}

func pictured(target Target, url string) openai.ChatCompletionNewParams {
	parts := []any{
		Fields{"type": "text", "text": script.Prompt},
		Fields{"type": "image_url", "image_url": Fields{"url": url}},
	}
	return chat(target, Fields{"messages": []any{Fields{"role": "user", "content": parts}}})
}

func (o openaiProbe) image(target Target) {
	asked := pictured(target, "data:image/png;base64,"+script.Pixel)
	is(o.ask(asked).Message.Content != "", "an answer")
}

func (o openaiProbe) imageURL(target Target) {
	is(o.ask(pictured(target, script.PictureURL)).Message.Content != "", "an answer")
}

func (o openaiProbe) imageURLRefused(target Target) {
	o.refused(400, pictured(target, script.PictureURL))
}

func (o openaiProbe) completions(target Target) {
	asked := params[openai.CompletionNewParams](Fields{
		"model": target.Completion, "prompt": script.Prompt, "max_tokens": script.MaxTokens,
	})
	answer, text := must(o.client.Completions.New(o.ctx, asked)), ""
	stream := o.client.Completions.NewStreaming(o.ctx, asked)
	for stream.Next() {
		for _, choice := range stream.Current().Choices {
			text += choice.Text
		}
	}
	check(stream.Err())
	is(answer.Usage.CompletionTokens > 0, "usage")
	is(text == answer.Choices[0].Text, "the same text")
}

func (o openaiProbe) responses(target Target) {
	asked := params[responses.ResponseNewParams](Fields{
		"model": target.Model, "instructions": script.System, "input": script.Prompt,
		"max_output_tokens": script.MaxTokens,
	})
	answer, text := must(o.client.Responses.New(o.ctx, asked)), ""
	is(answer.OutputText() != "", "a text")
	stream := o.client.Responses.NewStreaming(o.ctx, asked)
	var last responses.ResponseStreamEventUnion
	for stream.Next() {
		last = stream.Current()
		if last.Type == "response.output_text.delta" {
			text += last.Delta
		}
	}
	check(stream.Err())
	is(last.Type == "response.completed" || last.Type == "response.incomplete", "an end: %s", last.Type)
	is(text == answer.OutputText(), "the same text")
	is(last.Response.Usage.OutputTokens == answer.Usage.OutputTokens, "the same usage")
	o.responsesTool(target)
}

func (o openaiProbe) responsesTool(target Target) {
	function := Fields{
		"type": "function", "strict": false, "name": script.Weather.Name,
		"description": script.Weather.Description, "parameters": script.Weather.Parameters,
	}
	offered := Fields{
		"model": target.Model, "tools": []any{function}, "max_output_tokens": script.ToolTokens,
	}
	input := []any{Fields{"role": "user", "content": script.Prompt}}
	forced := params[responses.ResponseNewParams](with(offered, Fields{"tool_choice": "required"}))
	called := must(o.client.Responses.New(o.ctx, forced, option.WithJSONSet("input", input)))
	for _, item := range called.Output {
		input = append(input, json.RawMessage(item.RawJSON()))
		if item.Type == "function_call" {
			call := item.AsFunctionCall()
			place(call.Arguments)
			input = append(input, Fields{
				"type": "function_call_output", "call_id": call.CallID, "output": script.ToolResult,
			})
		}
	}
	is(len(input) > 2, "a call")
	free := params[responses.ResponseNewParams](offered)
	after := must(o.client.Responses.New(o.ctx, free, option.WithJSONSet("input", input)))
	is(after.OutputText() != "", "an answer")
}

func (o openaiProbe) embeddings(target Target) {
	answer := must(o.client.Embeddings.New(o.ctx, params[openai.EmbeddingNewParams](
		Fields{"model": target.Embedding, "input": script.Texts},
	)))
	is(len(answer.Data) == len(script.Texts) && answer.Data[1].Index == 1, "a vector for each")
	is(len(answer.Data[0].Embedding) > 100, "many dimensions")
	is(answer.Usage.PromptTokens > 0, "usage")
}

func (o openaiProbe) moderation(target Target) {
	answer := must(o.client.Moderations.New(o.ctx, params[openai.ModerationNewParams](
		Fields{"model": target.Moderation, "input": script.Texts},
	)))
	is(len(answer.Results) == len(script.Texts) && !answer.Results[0].Flagged, "nothing flagged")
}

func (o openaiProbe) picture(target Target) {
	answer := must(o.client.Images.Generate(o.ctx, params[openai.ImageGenerateParams](
		Fields{"model": target.Picture, "prompt": script.Prompt},
	)))
	is(len(must(base64.StdEncoding.DecodeString(answer.Data[0].B64JSON))) > 0, "a picture")
}

func (o openaiProbe) speech(target Target) {
	answer := must(o.client.Audio.Speech.New(o.ctx, params[openai.AudioSpeechNewParams](Fields{
		"model": target.Speech, "voice": "alloy", "input": script.Prompt, "response_format": "wav",
	})))
	defer answer.Body.Close()
	is(bytes.HasPrefix(must(io.ReadAll(answer.Body)), []byte("RIFF")), "a sound")
}

func (o openaiProbe) transcription(target Target) {
	sound := must(base64.StdEncoding.DecodeString(script.Sound))
	answer := must(o.client.Audio.Transcriptions.New(o.ctx, openai.AudioTranscriptionNewParams{
		Model: target.Transcription, File: openai.File(bytes.NewReader(sound), "a.wav", "audio/wav"),
	}))
	is(answer.Text != "", "a text")
}

func (o openaiProbe) batch(target Target) {
	lines := []string{}
	for _, name := range names() {
		line := Fields{
			"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": chat(target, nil),
		}
		lines = append(lines, string(must(json.Marshal(line))))
	}
	content := strings.NewReader(strings.Join(lines, "\n"))
	file := must(o.client.Files.New(o.ctx, openai.FileNewParams{
		File: openai.File(content, "lines.jsonl", "application/jsonl"), Purpose: "batch",
	}))
	made := must(o.client.Batches.New(o.ctx, openai.BatchNewParams{
		InputFileID: file.ID, Endpoint: "/v1/chat/completions", CompletionWindow: "24h",
	}))
	until(func() bool {
		made = must(o.client.Batches.Get(o.ctx, made.ID))
		return slices.Contains([]string{"completed", "failed", "expired", "cancelled"}, string(made.Status))
	})
	is(made.Status == "completed", "the batch is %s", made.Status)
	is(made.RequestCounts.Completed == int64(script.BatchLines), "every line")
	results := must(o.client.Files.Content(o.ctx, made.OutputFileID))
	defer results.Body.Close()
	seen := []string{}
	for decoder := json.NewDecoder(results.Body); decoder.More(); {
		var row struct {
			CustomID string `json:"custom_id"`
			Response struct{ Body openai.ChatCompletion }
		}
		check(decoder.Decode(&row))
		is(row.Response.Body.Choices[0].Message.Content != "", "an answer")
		seen = append(seen, row.CustomID)
	}
	is(same(seen, names()), "every line once")
}

func (o openaiProbe) models(target Target) {
	listed := false
	pages := o.client.Models.ListAutoPaging(o.ctx)
	for pages.Next() {
		listed = listed || pages.Current().ID == target.Model
	}
	check(pages.Err())
	is(listed, "listed")
	is(must(o.client.Models.Get(o.ctx, target.Model)).ID == target.Model, "found")
}

// refused returns the error that a call must raise.
func (o openaiProbe) refused(
	status int, asked openai.ChatCompletionNewParams, by ...option.RequestOption,
) *openai.Error {
	_, err := o.client.Chat.Completions.New(o.ctx, asked, by...)
	var fault *openai.Error
	is(errors.As(err, &fault), "an error of the API: %v", err)
	refused(status, fault.Response, fault.StatusCode)
	is(fault.Message != "", "a message")
	return fault
}

func (o openaiProbe) badRequest(target Target) {
	_, err := o.client.Chat.Completions.New(
		o.ctx, chat(target, nil), option.WithJSONSet("messages", []any{Fields{"role": "nobody"}}),
	)
	var fault *openai.Error
	is(errors.As(err, &fault), "an error of the API: %v", err)
	refused(400, fault.Response, fault.StatusCode)
}

func (o openaiProbe) unauthorized(target Target) {
	o.refused(401, chat(target, nil), option.WithAPIKey("wrong"))
}

func (o openaiProbe) notFound(target Target) {
	for _, model := range []string{target.Name + "/no-such-model", "no-such-vendor/no-such-model"} {
		is(o.refused(404, chat(target, Fields{"model": model})).Code != "", "a code")
	}
}

func (o openaiProbe) rateLimited(target Target) {
	waits(o.refused(429, chat(target, Fields{"model": target.Limited})).Response)
}

func (o openaiProbe) unavailable(target Target) {
	waits(o.refused(503, chat(target, Fields{"model": target.Away})).Response)
}

func (o openaiProbe) tooLong(target Target) {
	fault := o.refused(400, chat(target, Fields{"model": target.Full}))
	is(fault.Code == "context_length_exceeded", "the code is %s", fault.Code)
}
