"""A server that speaks the OpenAI and Anthropic HTTP protocols and keeps books of what it served.

It is written from the vendors' documentation alone and shares no code with the gateway: an encoder
and its oracle must not share bugs. Run it by `python -m infra.sandbox --port 8083`.
"""
