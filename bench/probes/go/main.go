// The official OpenAI and Anthropic clients for Go, unmodified: `probe openai|anthropic PLAN.json`.
//
// This file has what both share: the plan that they are given, and the rows that they print. A case
// that fails panics with the reason.
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"time"
)

const detailChars = 900

// Fields is a JSON object.
type Fields = map[string]any

// Function is a tool as the script has it.
type Function struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Parameters  Fields `json:"parameters"`
}

// Script is the conversation that every client plays.
type Script struct {
	System          string
	Prompt          string
	MaxTokens       int64 `json:"max_tokens"`
	ToolTokens      int64 `json:"tool_tokens"`
	Weather, Time   Function
	ToolResult      string `json:"tool_result"`
	Pixel           string
	Sound           string
	PictureURL      string `json:"picture_url"`
	Texts           []string
	BatchLines      int     `json:"batch_lines"`
	PatienceS       float64 `json:"patience_s"`
	ParallelPrompts int     `json:"parallel_prompts"`
}

// Target is a provider behind Weir, by the names of its models.
type Target struct {
	Name, Model, Limited, Away, Full, Completion          string
	Embedding, Moderation, Picture, Speech, Transcription string
	Cases                                                 map[string][]string
}

// Plan is what a probe is told to do.
type Plan struct {
	URL, Key string
	Script   Script
	Targets  []Target
}

// Place is what `structured` and the tool's arguments hold.
type Place struct {
	City *string `json:"city"`
	Days *int64  `json:"days"`
}

var script Script

func main() {
	client := os.Args[1]
	data := must(os.ReadFile(os.Args[2]))
	var plan Plan
	check(json.Unmarshal(data, &plan))
	script = plan.Script
	cases := openaiCases(plan.URL, plan.Key)
	if client == "anthropic" {
		cases = anthropicCases(plan.URL, plan.Key)
	}
	version := versionOf(client)
	for _, target := range plan.Targets {
		for _, name := range target.Cases[client] {
			begun := time.Now()
			detail := play(cases[name], target)
			row := Fields{
				"client": client, "version": version, "case": name, "target": target.Name,
				"ok": detail == nil, "detail": detail,
				"seconds": float64(time.Since(begun).Milliseconds()) / 1000,
			}
			fmt.Println(string(must(json.Marshal(row))))
		}
	}
}

// versionOf returns the version of the client that was compiled in.
func versionOf(client string) string {
	names := map[string]string{
		"openai":    "github.com/openai/openai-go/v3",
		"anthropic": "github.com/anthropics/anthropic-sdk-go",
	}
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == names[client] {
			return module.Version[1:]
		}
	}
	return ""
}

// play runs a case and returns what went wrong, or nil.
func play(run func(Target), target Target) (detail any) {
	defer func() {
		if reason := recover(); reason != nil {
			text := fmt.Sprintf("%v\n%s", reason, debug.Stack())
			detail = text[:min(len(text), detailChars)]
		}
	}()
	run(target)
	return nil
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func is(holds bool, what string, about ...any) {
	if !holds {
		panic(fmt.Sprintf("not so: "+what, about...))
	}
}

// params makes a client's parameters out of JSON, as a caller with a stored request would.
func params[T any](fields Fields) (made T) {
	check(json.Unmarshal(must(json.Marshal(fields)), &made))
	return made
}

// with returns fields and some more, which win.
func with(fields, more Fields) Fields {
	found := Fields{}
	for _, one := range []Fields{fields, more} {
		for name, value := range one {
			found[name] = value
		}
	}
	return found
}

func place(arguments string) {
	var found Place
	check(json.Unmarshal([]byte(arguments), &found))
	is(found.City != nil && found.Days != nil, "a place: %s", arguments)
}

func until(look func() bool) {
	deadline := time.Now().Add(time.Duration(script.PatienceS * float64(time.Second)))
	for !look() {
		is(time.Now().Before(deadline), "done in time")
		time.Sleep(200 * time.Millisecond)
	}
}

// refused holds an error's answer to what it must be.
func refused(status int, answer *http.Response, code int) {
	is(code == status, "%d instead of %d", code, status)
	is(answer.Header.Get("x-weir-request-id") != "", "an id of the call")
}

func waits(answer *http.Response) {
	wait := must(strconv.Atoi(answer.Header.Get("retry-after")))
	is(wait > 0 && wait <= 60, "a wait of %d s", wait)
}

func names() []string {
	found := []string{}
	for number := range script.BatchLines {
		found = append(found, fmt.Sprintf("n%d", number))
	}
	return found
}

func same(left, right []string) bool {
	slices.Sort(left)
	slices.Sort(right)
	return slices.Equal(left, right)
}
