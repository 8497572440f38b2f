"""A whole answer as a stream: for clients that ask for one when the answer is already known."""

from __future__ import annotations

from gateway.dialects.neutral import (
    END,
    Answer,
    ClientDialect,
    Delta,
    Opening,
    Receipt,
    Text,
    Thinking,
    ToolCall,
)


def deltas(answer: Answer) -> list[Delta]:
    """Return the steps of a stream that says the answer."""
    steps = [Delta("start", id=answer.id, name=answer.model)]
    calls = 0
    for part in answer.parts:
        match part:
            case Thinking():
                kind = "redacted" if part.redacted else ""
                steps.append(Delta("thinking", part.text, id=kind))
                if part.signature is not None:
                    steps.append(Delta("signature", part.signature, name=part.vendor))
            case Text():
                steps.append(Delta("text", part.text))
            case ToolCall():
                steps.append(Delta("tool_call", index=calls, id=part.id, name=part.name))
                steps.append(Delta("arguments", part.arguments, index=calls))
                calls += 1
    steps.append(Delta("finish", answer.finish or "stop"))
    if answer.usage is not None:
        steps.append(Delta("usage", usage=answer.usage))
    return steps


def streamed(front: ClientDialect, answer: Answer, opening: Opening, receipt: Receipt) -> bytes:
    """Return the whole stream in a client's dialect."""
    writer = front.stream_writer(opening)
    said = b"".join(writer.write(delta) for delta in deltas(answer))
    return said + front.end_of_stream(receipt) + writer.write(END)
