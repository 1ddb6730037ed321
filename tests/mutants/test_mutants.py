"""Do the tests notice? Each seeded bug must make one layer fail (minutes: run with ``-m slow``)."""

from __future__ import annotations

import pytest

from .judge import MUTANTS, ROOT, failing_without_mutant, judge, source
from .mutant import Mutant


def _name(mutant: Mutant) -> str:
    return f"{mutant.package}: {mutant.name}"


def test_the_names_of_the_mutants_are_unique() -> None:
    names = [_name(mutant) for mutant in MUTANTS]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("mutant", MUTANTS, ids=_name)
def test_the_text_of_every_mutant_is_still_in_the_source(mutant: Mutant) -> None:
    assert (ROOT / source(mutant)).read_text().count(mutant.before) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_fails_without_a_mutant() -> None:
    assert failing_without_mutant() == ""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", MUTANTS, ids=_name)
def test_the_tests_notice_the_mutant(mutant: Mutant) -> None:
    assert any(test for _, test in judge(mutant))
