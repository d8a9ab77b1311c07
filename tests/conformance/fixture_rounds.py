"""The conformance fixture's tools that ask their client something, in the manner of either era.

In 2026-07-28 a tool answers with questions and is called again with answers; before, it sends requests of its own while
the call is open. Some tools do either, as any server of both eras has to. Imported by `fixture_server.py` for its
registrations. The one rule: nothing is asked that the client did not declare; where that leaves nothing to ask, the
answer is the error that names what is missing.
"""

import json
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    ElicitResult,
    SamplingMessage,
    TextContent,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from tests.conformance.fixture_content import Call, Json, said, text, tool

STATE = "the-first-answer-is-missing"
STATE_2 = "the-second-answer-is-missing"


def form(message: str, **properties: Json) -> Json:
    """A question to the user; every field is required."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def sample(question: str, tokens_max: int = 100) -> Json:
    """A question to the client's model."""
    messages = [{"role": "user", "content": text(question)}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": tokens_max}}


ROOTS: Json = {"method": "roots/list", "params": {}}
WORD: Json = {"type": "string"}
YES: Json = {"type": "boolean"}


def asked(questions: Json, state: str | None = None) -> Json:
    """A result that is questions."""
    result = {"resultType": "input_required", "inputRequests": questions}
    return result if state is None else {**result, "requestState": state}


def missing(*capabilities: str) -> MCPError:
    """The error for a client that did not declare what a tool needs."""
    return MCPError(
        code=MISSING_REQUIRED_CLIENT_CAPABILITY,
        message=f"needs client capabilities: {', '.join(capabilities)}",
        data={"requiredCapabilities": {capability: {} for capability in capabilities}},
    )


@tool("test_missing_capability", "Needs a client that samples")
async def _missing(call: Call) -> Json:
    if "sampling" not in call.capabilities:
        raise missing("sampling")
    return said("sampling was declared")


@tool("test_streaming_elicitation", "Needs a client that asks its user")
async def _streaming(call: Call) -> Json:
    if "elicitation" not in call.capabilities:
        raise missing("elicitation")
    return said("thank you") if "word" in call.answers else asked({"word": form("Say something", word=WORD)})


@tool("test_input_required_result_elicitation", "Asks for a name")
async def _name(call: Call) -> Json:
    if "user_name" not in call.answers:
        return asked({"user_name": form("What is your name?", name=WORD)})
    return said(f"Hello, {filled(call.answers['user_name'], 'name')}!")


@tool("test_input_required_result_sampling", "Asks the client's model")
async def _capital(call: Call) -> Json:
    if "capital_question" not in call.answers:
        return asked({"capital_question": sample("What is the capital of France?")})
    return said(json.dumps(call.answers["capital_question"].get("content")))


@tool("test_input_required_result_list_roots", "Asks for the client's roots")
async def _roots(call: Call) -> Json:
    if "client_roots" not in call.answers:
        return asked({"client_roots": ROOTS})
    return said(json.dumps(call.answers["client_roots"].get("roots")))


@tool("test_input_required_result_request_state", "Asks for a confirmation and remembers that it did")
async def _state(call: Call) -> Json:
    if call.state == STATE and "confirm" in call.answers:
        return said("state-ok")
    return asked({"confirm": form("Please confirm", ok=YES)}, STATE)


@tool("test_input_required_result_tampered_state", "Asks for a confirmation; its memory is sealed")
async def _sealed(call: Call) -> Json:
    if call.state == STATE:  # A seal that was touched does not come this far.
        return said("confirmed")
    return asked({"confirm": form("Please confirm", ok=YES)}, STATE)


@tool("test_input_required_result_multiple_inputs", "Asks the user, the model and for roots at once")
async def _three(call: Call) -> Json:
    questions = {
        "user_name": form("What is your name?", name=WORD),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    if call.state == STATE and questions.keys() <= call.answers.keys():
        return said("all three answered")
    return asked(questions, STATE)


@tool("test_input_required_result_multi_round", "Asks twice, one after the other")
async def _two_rounds(call: Call) -> Json:
    if call.state == STATE_2 and "step2" in call.answers:
        return said("both answered")
    if call.state == STATE and "step1" in call.answers:
        return asked({"step2": form("Step 2: What is your favorite color?", color=WORD)}, STATE_2)
    return asked({"step1": form("Step 1: What is your name?", name=WORD)}, STATE)


@tool("test_input_required_result_capabilities", "Asks by every way that the client declared")
async def _declared(call: Call) -> Json:
    ways = {"sampling": sample("Anything?"), "elicitation": form("Anything?", word=WORD), "roots": ROOTS}
    open_ways = {name: question for name, question in ways.items() if name in call.capabilities}
    if not open_ways:
        raise missing(*ways)
    return said("answered") if open_ways.keys() <= call.answers.keys() else asked(open_ways)


async def prompt_after_question(call: Call) -> Json:
    """The prompt of the fixture that asks."""
    if "user_context" not in call.answers:
        return asked({"user_context": form("What context should the prompt use?", context=WORD)})
    context = filled(call.answers["user_context"], "context")
    return {"messages": [{"role": "user", "content": text(f"In the context of {context}")}]}


@tool(
    "test_sampling",
    "Asks the client's model while the call is open",
    {"type": "object", "properties": {"prompt": WORD}, "required": ["prompt"]},
)
async def _sampling(call: Call) -> Json:
    if is_modern(call):
        if "model" not in call.answers:
            return asked({"model": sample(call.arguments["prompt"])})
        return said(f"LLM response: {spoken(call.answers['model'])}")
    message = SamplingMessage(role="user", content=TextContent(type="text", text=call.arguments["prompt"]))
    result = await call.ctx.session.create_message([message], max_tokens=100, related_request_id=call.ctx.request_id)
    return said(f"LLM response: {getattr(result.content, 'text', result.content)}")


@tool(
    "test_elicitation",
    "Asks the client's user while the call is open",
    {"type": "object", "properties": {"message": WORD}, "required": ["message"]},
)
async def _elicitation(call: Call) -> Json:
    properties = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    return await filled_in("User response", call, call.arguments["message"], properties, list(properties))


@tool("test_elicitation_sep1034_defaults", "Asks for fields of every kind that have defaults")
async def _defaults(call: Call) -> Json:
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return await filled_in("Elicitation completed", call, "Please look at the defaults", properties)


@tool("test_elicitation_sep1330_enums", "Asks for choices of every kind")
async def _enums(call: Call) -> Json:
    plain = {"type": "string", "enum": ["option1", "option2", "option3"]}
    titled = [{"const": f"value{number}", "title": f"Choice {number}"} for number in (1, 2, 3)]
    properties = {
        "untitledSingle": plain,
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": plain},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return await filled_in("Elicitation completed", call, "Please choose", properties)


async def filled_in(what: str, call: Call, message: str, properties: Json, required: list[str] | None = None) -> Json:
    """Ask the user in the manner of the client's era; what the user did is the result."""
    schema: Json = {"type": "object", "properties": properties, "required": required or []}
    if not is_modern(call):
        answer = await call.ctx.session.elicit_form(message, schema, call.ctx.request_id)
    elif "user" in call.answers:
        answer = ElicitResult.model_validate(call.answers["user"])
    else:
        params = {"message": message, "requestedSchema": schema}
        return asked({"user": {"method": "elicitation/create", "params": params}})
    return said(f"{what}: action={answer.action}, content={json.dumps(answer.content)}")


def is_modern(call: Call) -> bool:
    """Whether the client speaks 2026-07-28, in which a server sends no requests of its own."""
    return call.ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def spoken(answer: Any) -> Any:
    """What the model said."""
    return (answer.get("content") or {}).get("text")


def filled(answer: Any, name: str) -> Any:
    """One field of a form that came back."""
    return (answer.get("content") or {}).get(name)
