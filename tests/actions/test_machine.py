"""The state machine of `machine`, in a profile for every day and one for `make torture`."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.actions.machine import ChatMachine

EVERY_DAY = settings(
    max_examples=40, stateful_step_count=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
LONG = settings(
    max_examples=1_500, stateful_step_count=80, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)


def test_any_history_of_the_chat() -> None:
    """The same histories in every run; `test_any_history_for_long` draws new ones."""
    run_state_machine_as_test(ChatMachine, settings=EVERY_DAY)


@pytest.mark.torture
@pytest.mark.timeout(3_600)
def test_any_history_for_long() -> None:
    run_state_machine_as_test(ChatMachine, settings=LONG)
