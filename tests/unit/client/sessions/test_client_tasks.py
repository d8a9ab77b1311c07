"""Tasks that a server makes of its requests to a client, which the node keeps."""

import json

from agent.client.capabilities import with_client_tasks
from agent.client.sessions.client_tasks import TASKS_MAX, ClientTasks
from agent.client.sessions.pending_call import PendingCall
from agent.model import Json

FORM: Json = {"message": "Word?", "requestedSchema": {"type": "object"}, "task": {"ttl": 60_000}}
ACCEPTED: Json = {"action": "accept", "content": {"word": "yes"}}


def asked(call: PendingCall, method: str, request_id: int, **params: object) -> Json:
    reply = call.ask({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
    assert reply is not None
    known: Json = json.loads(reply)
    return known


def test_what_a_caller_accepts_it_accepts_as_a_task_and_nothing_else() -> None:
    assert with_client_tasks({"roots": {}}) == {"roots": {}}
    declared = with_client_tasks({"elicitation": {}})["tasks"]
    assert declared == {"list": {}, "cancel": {}, "requests": {"elicitation": {"create": {}}}}


def test_a_request_made_as_a_task_is_an_ordinary_one_for_the_caller() -> None:
    call = PendingCall({"elicitation": {}})
    task = asked(call, "elicitation/create", 1, **FORM)["result"]["task"]
    assert (task["status"], task["ttl"]) == ("working", 60_000)
    (key, question), *others = call.server_requests().items()
    assert not others
    assert "task" not in question["params"]
    assert asked(call, "tasks/get", 2, taskId=task["taskId"])["result"]["status"] == "working"
    assert call.ask({"jsonrpc": "2.0", "id": 3, "method": "tasks/result", "params": {"taskId": task["taskId"]}}) is None
    (reply,) = call.answer({key: ACCEPTED}, {})
    related = {"io.modelcontextprotocol/related-task": {"taskId": task["taskId"]}}
    assert json.loads(reply) == {"jsonrpc": "2.0", "id": 3, "result": {**ACCEPTED, "_meta": related}}
    assert asked(call, "tasks/get", 4, taskId=task["taskId"])["result"]["status"] == "completed"
    assert asked(call, "tasks/result", 5, taskId=task["taskId"])["result"]["action"] == "accept"
    assert len(asked(call, "tasks/list", 6)["result"]["tasks"]) == 1


def test_a_task_that_its_server_cancels_is_not_asked_any_more() -> None:
    call = PendingCall({"elicitation": {}})
    task = asked(call, "elicitation/create", 1, **FORM)["result"]["task"]
    assert asked(call, "tasks/cancel", 2, taskId=task["taskId"])["result"]["status"] == "cancelled"
    assert not call.server_requests()
    assert asked(call, "tasks/cancel", 3, taskId=task["taskId"])["error"]["code"] == -32602
    assert asked(call, "tasks/get", 4, taskId="another")["error"]["code"] == -32602


def test_of_too_many_tasks_the_oldest_that_has_ended_makes_room_or_none_is_made() -> None:
    tasks = ClientTasks()
    first = tasks.begin({})
    assert first is not None
    others = [tasks.begin({}) for _ in range(TASKS_MAX - 1)]
    assert None not in others
    assert tasks.begin({}) is None
    first.settle(ACCEPTED, "completed")
    assert tasks.begin({}) is not None
    assert not tasks.knows({"taskId": first.task_id})
