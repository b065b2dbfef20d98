"""The words of a build: what each event type must hold, what is filled in, what passes as it is."""

from __future__ import annotations

from typing import Any

import pytest

from eventstore.categories.build import CHANGES
from eventstore.categories.build_vocabulary import ALIASES, MESSAGES, TYPES, check
from eventstore.errors import Invalid

pytestmark = pytest.mark.pure

SEED_TYPES = [
    "plan_started",
    "plan_generated",
    "task_started",
    "task_completed",
    "task_failed",
    "build_started",
    "build_progress",
    "build_completed",
    "build_failed",
    "deploy_started",
    "deploy_progress",
    "deploy_completed",
    "deploy_failed",
    "deploy_log",
    "status",
    "error",
]
NEEDED: dict[str, dict[str, Any]] = {"deploy_completed": {"previewUrl": "https://x.dev"}}


@pytest.mark.req("S0-11", "S0-12", "S0-13", "S0-14", "S0-15", "S0-16", "S2-20", "S2-23")
def test_the_seeds_event_types_are_known() -> None:
    assert set(SEED_TYPES) <= TYPES
    assert set(ALIASES.values()) <= TYPES
    assert set(CHANGES) <= TYPES


@pytest.mark.req("S0-33")
@pytest.mark.parametrize("type_", sorted(TYPES))
def test_no_event_is_without_a_message(type_: str) -> None:
    for told in ({}, {"message": None}, {"message": ""}):
        assert check(type_, NEEDED.get(type_, {}) | told)["message"]


@pytest.mark.req("S1-14", "S2-14")
def test_the_messages_are_the_documents_words() -> None:
    assert MESSAGES["plan_started"] == "Analyzing requirements..."
    assert MESSAGES["plan_generated"] == "Creating project structure..."
    assert MESSAGES["build_started"] == "Building application..."


def test_a_message_that_was_given_stays() -> None:
    assert check("status", {"message": "Halfway"})["message"] == "Halfway"


def test_messages_name_the_task_or_do_without() -> None:
    assert check("task_started", {"taskName": "Paint"})["message"] == "Started: Paint"
    assert check("task_started", {"taskName": "{0.__class__}"})["message"] == "Started: {0.__class__}"
    assert check("task_started", {})["message"] == "Started: task"
    assert check("run_failed", {})["message"] == "Failed with exit code unknown"


def test_check_leaves_the_callers_data_alone() -> None:
    data: dict[str, Any] = {"code": "COMPILING"}
    check("status", data)
    assert data == {"code": "COMPILING"}


def test_a_type_that_is_unknown_is_not_looked_at() -> None:
    data = {"progress": 1000, "message": 5}
    assert check("custom", data) is data


@pytest.mark.req("S2-17")
@pytest.mark.parametrize(
    ("long", "short"), [("COMPILING", "COMPILE"), ("LINTING", "LINT"), ("TESTING", "TEST"), ("BUILDING", "BUILD")]
)
def test_long_codes_are_stored_short(long: str, short: str) -> None:
    assert check("status", {"code": long})["code"] == short
    assert check("status", {"code": short})["code"] == short


@pytest.mark.req("S1-15", "S2-19")
def test_the_list_of_files_gives_the_number() -> None:
    data = check("task_completed", {"filesCreated": 9, "details": {"filesCreated": ["a", "b"], "filesModified": []}})
    assert (data["filesCreated"], data["filesModified"]) == (2, 0)
    assert check("task_completed", {"filesCreated": 1})["filesCreated"] == 1


def test_the_plan_gives_the_number_of_tasks() -> None:
    plan = {"id": "p", "tasks": [{"id": "1", "name": "a"}, {"id": "2", "name": "b", "estimatedDuration": 5}]}
    assert check("plan_generated", {"taskCount": 7, "plan": plan})["taskCount"] == 2


@pytest.mark.req("S0-13", "S2-24", "S2-25")
def test_a_failure_says_why_and_whether_it_is_tried_again() -> None:
    data = check("task_failed", {"message": "disk full"})
    assert (data["error"], data["severity"], data["retryable"]) == ("disk full", "fatal", False)
    assert check("task_failed", {"severity": "soft"})["retryable"] is True
    assert check("task_failed", {"details": {"error": "boom"}})["error"] == "boom"
    assert check("error", {"severity": None, "retryable": None})["severity"] == "fatal"


@pytest.mark.req("S0-16")
@pytest.mark.parametrize("type_", ["build_failed", "deploy_failed", "run_failed"])
def test_a_failed_stage_gives_a_reason(type_: str) -> None:
    assert check(type_, {"message": "no space"})["error"] == "no space"
    assert check(type_, {})["error"] == "No reason was given"


@pytest.mark.req("S2-16", "S2-18", "S2-22", "S2-24", "S3-12", "S0-21")
@pytest.mark.parametrize(
    ("type_", "data", "pointer"),
    [
        ("status", {"progress": 101}, "/progress"),
        ("status", {"progress": -1}, "/progress"),
        ("status", {"progress": "50"}, "/progress"),
        ("status", {"progress": True}, "/progress"),
        ("status", {"progress": float("nan")}, "/progress"),
        ("status", {"code": 5}, "/code"),
        ("status", {"message": 5}, "/message"),
        ("build_progress", {"severity": "soft"}, "/severity"),
        ("error", {"severity": "warning"}, "/severity"),
        ("task_failed", {"severity": ["fatal"]}, "/severity"),
        ("task_started", {"taskId": 5}, "/taskId"),
        ("task_started", {"taskName": {}}, "/taskName"),
        ("plan_generated", {"taskCount": -1}, "/taskCount"),
        ("plan_generated", {"plan": []}, "/plan/tasks"),
        ("plan_generated", {"plan": {"tasks": [{"id": "1"}]}}, "/plan/tasks/0"),
        ("plan_generated", {"plan": {"tasks": [{"id": "1", "name": "a"}, "b"]}}, "/plan/tasks/1"),
        ("plan_generated", {"plan": {"tasks": [{"id": "1", "name": "a"}] * 2}}, "/plan/tasks"),
        ("deploy_completed", {}, "/previewUrl"),
        ("deploy_completed", {"previewUrl": ""}, "/previewUrl"),
        ("deploy_completed", {"previewUrl": "javascript:alert(1)"}, "/previewUrl"),
        ("deploy_completed", {"previewUrl": "https://" + "x" * 2000}, "/previewUrl"),
        ("run_completed", {"exitCode": "0"}, "/exitCode"),
    ],
    ids=str,
)
def test_wrong_fields_are_refused_by_name(type_: str, data: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Invalid) as refused:
        check(type_, data)
    assert refused.value.pointer == pointer
