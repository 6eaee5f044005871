"""Messages of the rules language about bad input: every message is compared exactly with a file in `golden/`.

`UPDATE_GOLDEN=1 pytest tests/test_bad_rules.py` rewrites the files; read the diff before committing it.
"""

from __future__ import annotations

import ast
import os
import re
import time
from pathlib import Path

import pytest

from bulkhead.model import diagnostics, foreign, loader
from bulkhead.model.diagnostics import RulesError, UsageError
from bulkhead.model.parser import parse_text
from bulkhead.model.syntax import RESERVED
from bulkhead.model.syntax_errors import BELONGS
from bulkhead.proofs.cli.__main__ import run

GOLDEN = Path(__file__).parent / "golden"

HEAD = """component small "A component for trying things out."
sort Thing "a thing"
enum Colour = red | green
state colour[Thing]: Colour
state marked[Thing]: bool
state box[Thing]: { full: bool, holds: Thing }
define is_red(t: Thing) = colour[t] = red
init forall t: Thing. not marked[t]
"""
PAINT = """request paint(t: Thing)
    require marked[t] else EPERM
    set colour[t] = green
"""
TAIL = """
system small "Just that." uses small
"""


def small(extra: str, expect: str = "") -> str:
    return HEAD + extra + TAIL + expect


def deep(operator: str, count: int = 5000) -> str:
    return small(f"invariant deep forall t: Thing. {operator * count}marked[t]\n")


ORDER = """component order(sort T, le) "A total order."
state le[T, T]: bool
define below(a: T, b: T) = le[a, b] and a != b
axiom forall a: T, b: T. le[a, b] or le[b, a]
"""

CHAIN = "".join(f"define d{k}(t: Thing) = not d{k - 1}(t)\n" for k in range(1, 2000))
PROCEDURES = "".join(f"procedure p{k}(t: Thing)\n    perform p{k - 1}(t)\n    perform p{k - 1}(t)\n" for k in range(1, 40))

LETS = "request go(t: Thing)\n    let a0 = marked[t]\n"

# Messages of `check` about a file.
BAD: dict[str, str | bytes] = {
    "empty": "",
    "blank": "\n\n  \n",
    "only_comments": "-- nothing here\n",
    "truncated": HEAD + "request paint(t: Thing)\n    require marked[t] else",
    "truncated_in_formula": HEAD + "invariant half forall t: Thing. marked[t] and\n\n   \n",
    "nul": b'component a "x"\nsort T\0hing "t"\n',
    "not_utf8": b'component a "x"\nsort Th\xff\xfeing "t"\n',
    "binary": bytes(range(128, 256)) * 40,
    "stray_character": small("invariant odd forall t: Thing. marked[t] $ marked[t]\n"),
    "wrong_word": small("request paint(t: Thing)\n    requires marked[t] else EPERM\n"),
    "unclosed_string": 'component a "x"\nsort Thing "a thing\nstate on: bool\n',
    "unclosed_string_before_another": 'component a "x"\nsort Thing "a thing\nsort Other "another"\nstate on: bool\n',
    "deep_parentheses": deep("("),
    "deep_brackets": small(f"invariant deep forall t: Thing. {'box[' * 5000}t{']' * 5000}.full\n"),
    "deep_not": deep("not "),
    "deep_implies": deep("marked[t] implies "),
    "deep_iff": deep("marked[t] iff "),
    "deep_quantifiers": deep("forall u: Thing. "),
    "deep_if": small(f"invariant deep forall t: Thing. {'if marked[t] then true else ' * 5000} false\n"),
    "deep_if_condition": small(f"invariant deep forall t: Thing. {'if ' * 5000}true{' then true else false' * 5000}\n"),
    "deep_fields": small(f"invariant deep forall t: Thing. box[t]{'.full' * 5000}\n"),
    "deep_and_not": deep("marked[t] and not "),
    "deep_or": deep("marked[t] or "),
    "deep_calls": small(f"invariant deep forall t: Thing. {'is_red(' * 5000}t{')' * 5000}\n"),
    "deep_definitions": small("define d0(t: Thing) = marked[t]\n" + CHAIN),
    "deep_procedures": small(
        "procedure p0(t: Thing)\n    set marked[t] = true\n" + PROCEDURES + "request go(t: Thing)\n    perform p39(t)\n"
    ),
    "deep_lets": small(
        LETS
        + "".join(f"    let a{k} = a{k - 1} iff marked[t]\n" for k in range(1, 300))
        + "    require a299 else EPERM\n    set marked[t] = true\n"
    ),
    "doubling_lets": small(
        LETS
        + "".join(f"    let a{k} = a{k - 1} iff a{k - 1}\n" for k in range(1, 60))
        + "    require a59 else EPERM\n    set marked[t] = true\n"
    ),
    "doubling_definitions": small(
        "define d0(t: Thing) = marked[t]\n"
        + "".join(f"define d{k}(t: Thing) = d{k - 1}(t) iff d{k - 1}(t)\n" for k in range(1, 60))
    ),
    "doubling_arguments": small(
        "procedure p0(b: bool, t: Thing)\n    set marked[t] = b\n"
        + "".join(f"procedure p{k}(b: bool, t: Thing)\n    perform p{k - 1}((b iff b), t)\n" for k in range(1, 45))
        + "request go(t: Thing)\n    perform p44(marked[t], t)\n"
    ),
    "wrong_sizes": small("scope Think = 2\nscope Thing = 2, Thing = 3\nscope Call = 0\nscope Colour = 2\n"),
    "wrong_sizes_of_one": small("scope Thing = 4 to 3\nscope Call = 99999999999999999999\n"),
    "not_behind_an_equality": small("theorem one forall t: Thing. marked[t] = not is_red(t)\n"),
    "quantifier_behind_else": small("theorem one if true then true else forall t: Thing. marked[t]\n"),
    "statement_for_a_value": small("request go(t: Thing)\n    require set marked[t] = true\n"),
    "scenario_without_parts": small(PAINT + "scenario none possible\nend\nscenario all possible\n    ...\nend\n"),
    "records_of_other_sorts": small(
        "state lid[Thing]: { full: bool, holds: Colour }\n"
        "invariant one forall t: Thing. box[t] = lid[t]\n"
        "request close(t: Thing)\n    let old = lid[t]\n    set box[t] = old\n"
    ),
    "steps_performed_twice": small(
        "procedure fill(t: Thing)\n    set box[t].full = true\n  step later\n    set box[t].full = false\n"
        "request go(t: Thing, u: Thing)\n    perform fill(t) as a\n    perform fill(u) as b\n"
    ),
    "this_as_a_parameter": small(
        "request go(this: Thing)\n    set marked[this] = true\n  step second\n    set marked[this] = false\n"
    ),
    "unknown_names": small(
        "invariant one forall t: Thing. colr[t] = red\n"
        "invariant two forall t: Thing. colour[t] = gren\n"
        "invariant three forall t: Thing. is_rod(t)\n"
        "invariant four forall t: Think. marked[t]\n"
        "invariant five forall t: Thing. box[t].ful\n"
        "invariant six forall t: Thing. is_red\n"
        "invariant seven forall c: Call. at[c] = paint.step and paint.nothing[c]\n" + PAINT
    ),
    "wrong_types": small(
        "invariant one forall t: Thing. colour[t]\n"
        "invariant two forall t: Thing. colour[t] = t\n"
        "invariant three forall t: Thing. marked[red]\n"
        "invariant four forall t: Thing. box[t] and marked[t]\n"
        "invariant five forall t: Thing. box[t] = colour[t]\n"
        "invariant six forall t: Thing. t.full\n"
        "invariant seven forall t: Thing. is_red(red)\n"
        "invariant eight forall t: Thing. if marked[t] then red else t\n"
    ),
    "wrong_arity": small(
        "invariant one forall t: Thing. marked[t, t]\n"
        "invariant two forall t: Thing. marked\n"
        "invariant three forall t: Thing. is_red(t, t) or is_red()\n"
        "procedure p(t: Thing)\n    set marked[t] = true\n"
        "request go(t: Thing)\n    perform p(t, t)\n"
    ),
    "wrong_assignments": small(
        "request go(t: Thing)\n"
        "    set t = t\n"
        "    set box[t] = { full: true }\n"
        "    set box[t] = { full: true, holds: t, lid: true }\n"
        "    set box[t] = { full: true, full: false, holds: t }\n"
        "    set marked[t] = { full: true }\n"
        "    set box[t] = colour[t]\n"
        "    set red = green\n"
    ),
    "cyclic_uses": 'component a "x"\nuses b\nsort A "a"\ncomponent b "y"\nuses c\ncomponent c "z"\nuses a\n',
    "parameters_that_do_not_fit": ORDER
    + """component one "Wrong numbers, wrong kinds."
uses order, order(Thing), order(Thing, le, le2), order(Thign, le), plain(Thing), order(le, Thing), order(Thing, at)
sort Thing "a thing"
component plain "Without parameters."
sort Other "another"
system one "x" uses one
""",
    "a_sort_for_a_name": ORDER
    + """component one "The arguments are the wrong way round."
uses order(Other, Thing)
sort Thing "a thing"
sort Other "another"
system one "x" uses one
""",
    "arguments_that_clash": ORDER
    + """component one "Names that are taken: by a variable, by the component itself, by another argument."
uses order(Thing, a), order(Thing, below), order(Thing, le) as b, order(Other, le2) as b
sort Thing "a thing"
sort Other "another"
component two "Twice the same names."
uses order(Thing, one), order(Other, two)
sort Thing "a thing"
sort Other "another"
component three "The second argument twice."
uses twice(Thing, r, r)
sort Thing "a thing"
component twice(sort T, r, s) "two relations"
state r[T, T]: bool
state s[T]: bool
""",
    "instances_of_the_same_names": ORDER
    + """component two "Twice the same names."
uses order(Thing, one), order(Other, two)
sort Thing "a thing"
sort Other "another"
system two "x" uses two
""",
    "parameters_that_are_not_declared": """component wrong(sort T, T, r, sort U, bool) "Parameters."
sort U "declared here, and given"
state s[T]: bool
internal step(s: T)
    set s[s] = true
component uses_wrong "x"
uses wrong(T, a, b, c, d)
sort T "x"
""",
    "parameters_that_are_not_declared_as_it_is": """component wrong(sort T, r) "Parameters."
state s[T]: bool
""",
    "parameters_in_a_circle": """component a(sort T, x) "x"
uses b(T, x)
component b(sort T, x) "y"
uses a(T, x) as more
component c "z"
uses a(Thing, x)
sort Thing "a thing"
""",
    "parameters_without_end": "".join(f'component c{k}(sort T, x) "x"\nuses c{k + 1}(T, x)\n' for k in range(12))
    + 'component c12(sort T, x) "x"\nstate x[T]: bool\ncomponent all "y"\nuses c0(Thing, x)\nsort Thing "a thing"\n',
    "scenarios_that_do_not_fit": small(
        PAINT
        + """scenario odd perhaps for t: Thing, t: Thing, u: Thong
    paint(t)
    pain(t)
    paint(t, t)
    paint(u: t)
    paint(t, t: t)
    paint(colour: red)
    paint(red)
    paint(t) fails EPREM
    repaint(t)
    assert colour[t]
    repaint(t, v: t) fails ENOENT
end
request repaint(t: Thing)
    pick u: Thing where marked[u] else ENOENT
    pick v: Thing where not marked[v] else EAGAIN
    set colour[u] = red
request go()
    set colour[t] = red for all t: Thing
invariant more forall t: Thing. marked[t]
scenario more possible
    go() fails EPERM
end
"""
    ),
    "uses_itself": 'component a "x"\nuses a\nsort A "a"\n',
    "duplicate_names": HEAD
    + """
sort Thing "again"
state marked[Thing]: bool
enum Shade = red | dark | dark
define is_red(t: Thing, t: Thing) = marked[t]
state pair[x: Thing, x: Thing]: { a: bool, a: bool }
invariant same forall t: Thing. marked[t]
invariant same forall t: Thing, t: Thing. marked[t]
state written[who: Thing]: bool
    writable by who as paint
"""
    + PAINT
    + TAIL,
    "reserved_names": small('state at[Thing]: bool\nenum Place = idle | busy\nsort Call "mine"\n'),
    "duplicate_component": HEAD + HEAD + TAIL + TAIL,
    "duplicate_locals": small(
        "request go(t: Thing, t: Thing)\n"
        "    pick u: Thing where not marked[u] else ENOENT\n"
        "    pick u: Thing where marked[u] else ENOENT\n"
        "    let t = u\n"
        "    set marked[u] = true\n"
    ),
    "performed_twice": small(
        "procedure fresh() -> Thing\n"
        "    pick u: Thing where not marked[u] else ENOENT\n    return u\n"
        "request go()\n    perform fresh()\n    perform fresh()\n    set marked[u] = true\n"
    ),
    "distinct_of_one": small("invariant odd forall t: Thing. distinct(t)\n"),
    "distinct_of_many": small(f"invariant odd forall t: Thing. distinct({', '.join('t' * 17)})\n"),
    "distinct_as_a_name": small("define distinct(t: Thing) = marked[t]\n"),
    "any_value_of_which_place": small(
        "state next_to[Thing]: Thing\ninternal go()\n    set marked[next_to[t]] = * for all t: Thing where is_red(t)\n"
    ),
    "any_value_in_undo": small(
        "internal go(t: Thing)\n    require marked[t] else EPERM undo set box[t] = { full: true, holds: * } end\n"
        "    set marked[t] = false\n"
    ),
    "any_value_and_a_code": small(
        "internal go(t: Thing)\n    set marked[u] = * for all u: Thing\n    require next(marked[t]) else EPERM\n"
    ),
    "after_the_step_too_large": small(
        "".join(f"define d{k}(t: Thing) = {f'd{k - 1}(t) and d{k - 1}(t)' if k else 'marked[t]'}\n" for k in range(14))
        + "internal go(t: Thing)\n    set marked[t] = true\n    require next(d13(t))\n"
    ),
    "after_the_step_elsewhere": small(
        "internal go(t: Thing)\n    let old = next(marked[t])\n    pick u: Thing where next(marked[u]) else ENOENT\n"
        "    set marked[u] = next(marked[t])\n"
    ),
    "sorts_and_names_of_others": small(
        "state count: int\nstate on: BOOLEAN\nstate seen: Set\nstate order: Seq\nstate text: string\n"
        "invariant one forall t: Thing. marked[X]\ninvariant two TRUE\ninvariant three forall t: Thing. new(marked[t])\n"
    ),
    "no_such_component": 'system s "x"\n    uses small, xen.grant\n',
    "unexpected_theorem": small("theorem all_marked forall t: Thing. marked[t]\n"),
    "unknown_theorem": small(
        "theorem all_marked forall t: Thing. marked[t]\n",
        "    expect proved all_market\n    expect refuted all_marked, all_marked\n    expect shown all_marked\n",
    ),
    "fault_finds_nothing": small(
        PAINT + "fault f within paint drop marked[red]\n"
        "fault g within pant drop marked[t]\n"
        "fault h within paint.later drop marked[t]\n"
        "fault i within paint move marked[t] to later\n"
        "fault j within paint skip marked[t]\n"
    ),
    "long_name": small(f"state {'long' * 30}: bool\n"),
    "rarer_mistakes_in_state": small(f"state wide[{', '.join(['Thing'] * 9)}]: bool\n"),
    "rarer_mistakes_in_formulas": small(
        "invariant many " + "".join(f"forall x{k}: Thing. " for k in range(14)) + "marked[x0]\n"
        "invariant indexed forall t: Thing. red[t] or is_red(t)[t]\n"
        "transition over forall t: Thing. next(marked[t], marked[t])\n"
        "axiom forall t: Thing. not marked[t]\n" + PAINT + "request mark(t: Thing)\n    set marked[t] = true\n",
        "    expect proved over\n",
    ),
    "rarer_mistakes_in_operations": small(
        "procedure later(t: Thing) when marked[t]\n    set marked[t] = true\n"
        "request back(t: Thing) -> Colour\n    set marked[t] = true\n    return t\n"
        "request many(" + ", ".join(f"t{k}: Thing" for k in range(17)) + ")\n    set marked[t0] = true\n"
        "request all()\n    set marked[t0] = true for all " + ", ".join(f"t{k}: Thing" for k in range(14)) + "\n"
        "request value()\n    set colour[red] = green\n"
        "request other()\n    set box[u].holds = t for all t: Thing, u: Thing\n"
    ),
    "fault_finds_nothing_else": small(
        "request paint(t: Thing) when not marked[t]\n"
        "    let shown = green\n"
        "    require is_red(t) else EPERM undo set marked[t] = false end\n"
        '    may fail EIO "why"\n'
        "    set colour[t] = shown for all t: Thing where marked[t]\n"
        "fault when_of_another within paint drop is_red(t) and marked[t]\n"
        "fault when_of_no_step within paint.later drop not marked[t]\n"
        "fault add_to_no_step within paint.later add set marked[t] = true\n"
        "fault let_of_another within paint let hidden = red\n"
        "fault may_fail_of_a_check within paint drop may fail EPERM\n"
        "fault undo_of_nothing within paint drop undo EIO\n"
        "fault undo_of_another within paint assign undo colour[t] = red\n"
        "fault undo_of_another_too within paint skip undo colour[t]\n"
        "fault where_of_another within paint drop not is_red(t)\n"
        "fault definition_of_another within is_red replace marked[t] with false\n"
        "fault whole_definition within is_red drop colour[t] = red\n"
        "fault assign_in_definition within is_red skip colour[t]\n"
        "fault define_of_another within is_rad replace red with green\n"
    ),
    "fault_breaks_nothing": small(
        PAINT + "theorem all_marked forall t: Thing. marked[t]\n"
        "fault f breaks all_market in paint within paint drop marked[t]\n"
        "fault g breaks all_marked in pant within paint drop marked[t]\n"
        "fault h breaks all_marked, none in paint.later within paint drop marked[t]\n",
        "    expect refuted all_marked\n",
    ),
    "next_outside_transition": small("invariant odd forall t: Thing. next(marked[t])\n"),
    "failed_outside_transition": small("invariant odd failed\n"),
    "performs_itself": small(
        "procedure p(t: Thing)\n    perform q(t)\nprocedure q(t: Thing)\n    perform p(t)\n"
        "procedure r(t: Thing)\n    perform r(t)\n"
        "request go(t: Thing)\n    perform p(t)\n    perform r(t)\n    perform s(t)\n"
    ),
    "definition_of_itself": small("define f(t: Thing) = g(t)\ndefine g(t: Thing) = g(t)\ndefine h(t: Thing) = f(t)\n"),
    "steps": small(
        "request go(t: Thing)\n    set marked[t] = true\n  step one\n    set marked[t] = false\n"
        "  step one\n    set marked[t] = true\n"
        "request loop()\n    set colour[t] = red for all t: Thing\n  each a(t: Thing)\n"
        "    set marked[t] = true\n  each b(t: Thing)\n    set marked[t] = false\n"
        "request ends()\n    set colour[t] = red for all t: Thing\n  done\n"
        "    set marked[t] = true for all t: Thing\n"
        "request plain(t: Thing)\n    require at[this] = idle else EINVAL\n    set marked[t] = true\n"
    ),
    "undo_that_checks": small(
        "procedure paint(t: Thing)\n    set colour[t] = green\n"
        "procedure check(t: Thing)\n    require marked[t] else EPERM\n    perform paint(t)\n"
        "procedure clean(t: Thing)\n    perform clean(t)\n"
        "request go(t: Thing)\n    require marked[t] else EIO\n        undo perform check(t) end\n"
        '    may fail EIO "why"\n        undo perform clean(t)\n             perform nothing(t)\n'
        "             perform clean() end\n    set marked[t] = true\n"
    ),
    "undo_of_what_was_not_picked": small(
        "request go(t: Thing)\n    pick u: Thing where marked[u] else ENOENT\n"
        "        undo set marked[u] = true end\n    set marked[u] = false\n"
    ),
    "wrong_writable": small(
        "state word[Thing]: bool\n    writable by owner\n"
        "state entry[who: Thing]: { who: Thing }\n    writable by who\n"
        "state cell[who: Thing]: bool\n    writable by who as write_cell when nobody(who)\n"
    ),
    "wrong_in_unused_procedure": small(
        PAINT + "procedure unused(t: Thing)\n    require market[t] else EPERM\n    set marked[t] = red\n"
    ),
    "wrong_in_a_procedure": small(  # told once, and not at each `perform`
        "procedure mark(t: Thing)\n    require not market[t] and zoo else EPERM\n    set marked[t] = t\n"
        "procedure mark_it(u: Thing)\n    perform mark(u)\n"
        "request go(t: Thing)\n    perform mark_it(t)\n    perform mark(u)\n    perform mark()\n"
        "request undone(t: Thing)\n    require marked[t] else EPERM\n        undo perform mark_it(t) end\n"
    ),
    "wrong_beside_a_system": small("") + '\ncomponent beside "Not used by the system."\nuses small\n'
    "invariant odd forall t: Thing. mark[t]\n",
    "several_at_once": small(
        "state shelf[Thin]: bool\n"
        "const root: Domain\n"
        "define is_blue(t: Thing) = colour[t] = blue\n"
        "request paint(t: Thing, c: Colour)\n"
        "    require marked[c] else EPERM\n"
        "    let old = colr[t]\n"
        "    require old = green else EPERM\n"
        "    set colour[t] = t\n"
        "invariant odd forall t: Thing. is_blue(t) or shelf[t] or root = root\n"
        "theorem strange forall t: Thing. marked(t)\n"
    ),
}

# Messages of `load` about a good file with a fault.
WITH_FAULT = {
    "unknown_fault": (small(PAINT + "fault no_mark within paint drop marked[t]\n"), "no_mork"),
    "no_faults_at_all": (small(PAINT), "no_mork"),
    "fault_of_wrong_type": (
        small(PAINT + "fault odd within paint replace marked[t] with colour[t]\nfault same within paint drop marked[t]\n"),
        "odd",
    ),
    "fault_adds_what_is_no_state": (small(PAINT + "fault odd within paint add set is_red(t) = true\n"), "odd"),
    "fault_gives_a_definition_another_sort": (small(PAINT + "fault odd within is_red replace red with t\n"), "odd"),
    "fault_gives_let_what_is_not_there": (
        small("request paint(t: Thing)\n    let c = red\n    set colour[t] = c\nfault odd within paint let c = blue\n"),
        "odd",
    ),
}


def compare(name: str, message: str, folder: Path) -> None:
    """The message, with paths reduced to file names, is that of the golden file."""
    message = message.replace(f"{folder}/", "").replace(f"{loader.SPEC}/", "") + "\n"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(message)
    assert message == golden.read_text()


RESERVED_USED = """component c "c"
sort T "t"
enum Phase = {member} | busy
state {state}[T]: Phase
init forall t: T. {state}[t] = {member}
internal go(t: T)
    require {state}[t] = {member}
    set {state}[t] = busy
theorem one forall t: T. {state}[t] = {member} or {state}[t] = busy
system y "y" uses c expect proved one
"""


@pytest.mark.parametrize("word", sorted(RESERVED))
@pytest.mark.parametrize("place", ["member", "state"])
def test_a_word_of_the_language_is_told_once(word: str, place: str, tmp_path: Path) -> None:
    """What uses the name has no fault of its own, and the theorem that does so is there."""
    path = tmp_path / "bad.rules"
    path.write_text(RESERVED_USED.format(**{"member": "free", "state": "phase", place: word}))
    with pytest.raises(RulesError) as caught:
        loader.check([path])
    assert re.findall(r"error: .*", str(caught.value)) == [f"error: `{word}` is a word of the language [E0201]"]


@pytest.mark.parametrize("name", BAD)
def test_message(name: str, tmp_path: Path) -> None:
    source = BAD[name]
    path = tmp_path / "bad.rules"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    time.monotonic()
    with pytest.raises(RulesError) as caught:
        loader.check([path])
    message = str(caught.value)
    compare(name, message, tmp_path)
    assert re.search(r"bad\.rules:\d+:\d+: error: .* \[E0\d\d\d\]$", message, re.MULTILINE)
    if name not in ("empty", "blank"):
        assert re.search(r"^ +\| +\^+$", message, re.MULTILINE)
    assert "Traceback" not in message and "Recursion" not in message
    if b"system" in path.read_bytes() and name not in (
        "duplicate_component",
        "wrong_in_unused_procedure",
        "wrong_beside_a_system",
    ):
        with pytest.raises(RulesError) as again:
            loader.load(str(path))
        assert str(again.value) == message


@pytest.mark.parametrize("name", WITH_FAULT)
def test_message_of_fault(name: str, tmp_path: Path) -> None:
    source, fault = WITH_FAULT[name]
    path = tmp_path / "good.rules"
    path.write_text(source)
    with pytest.raises((RulesError, UsageError)) as caught:
        loader.load(str(path), [fault])
    compare(name, str(caught.value), tmp_path)
    if isinstance(caught.value, UsageError):
        assert loader.check([path]) == []
        return
    assert loader.load(str(path)).faults, "a fault that is not laid has no effect"
    with pytest.raises(RulesError) as checked:
        loader.check([path])
    assert str(checked.value) == str(caught.value).replace("error: ", f"error: with fault `{fault}` laid: ")


TOGETHER = """procedure mark(t: Thing)
    require not marked[t] else EBUSY
        undo set marked[t] = false end
    set colour[t] = green
request paint(t: Thing)
    let old = colour[t]
    perform mark(t)
    set box[t].full = is_red(t)
  step dry(u: Thing)
    require next(marked[u]) else EAGAIN
    set marked[u] = old = red
request free_all()
    set marked[t] = * for all t: Thing
    require marked[t] or true
fault one within mark replace not marked[t] with not market[t]
fault two within mark assign colour[t] = t
fault three within mark assign undo marked[t] = red
fault four within paint.dry replace next(marked[u]) with next(marked[w])
fault five within is_red replace colour[t] = red with colour[t]
fault six within paint add set box[t] = { full: true }
fault seven within paint move marked[u] to dry
fault eight breaks no_such in paint within mark drop not marked[t]
fault nine within paint assign box[t].full = old = red
fault ten within paint let old = t
"""


def test_check_tells_what_is_wrong_with_all_faults(tmp_path: Path) -> None:
    """Whether it finds what it changes, what it breaks, names and sorts; each once, and where it stands."""
    path = tmp_path / "bad.rules"
    path.write_text(small(TOGETHER.replace("marked[t] or true", "exists t: Thing. marked[t]")))
    with pytest.raises(RulesError) as caught:
        loader.check([path])
    compare("faults_told_together", str(caught.value), tmp_path)
    told = "".join(p.what for p in caught.value.problems)
    assert "nine" not in told, "it has no mistake"


def test_check_lays_no_fault_over_rules_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "bad.rules"
    path.write_text(small(PAINT.replace("= green", "= blue") + "fault odd within paint drop market[t]\n"))
    with pytest.raises(RulesError) as caught:
        loader.check([path])
    assert [p.code for p in caught.value.problems] == ["E0301", "E0503"]


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "bad.rules"
    path.write_text("-- " + "x" * 10_000_000)
    with pytest.raises(UsageError) as caught:
        loader.check([path])
    compare("too_large", str(caught.value), tmp_path)


@pytest.mark.parametrize("special", ["/dev/zero", "/dev/null"])
def test_no_regular_file(special: str) -> None:
    with pytest.raises(UsageError, match="is not a regular file"):
        loader.load(special)


def test_large_files(tmp_path: Path) -> None:
    """A file just below the limit is read; one of nonsense is refused."""
    path = tmp_path / "large.rules"
    line = "-- " + "x" * 96 + "\n"
    path.write_text(line * 15_000 + small("".join(f"state s{k}[Thing]: bool\n" for k in range(2000))))
    assert loader.check([path]) == []
    path.write_text("((" * 900_000)
    with pytest.raises(RulesError, match="nested more than"):
        loader.check([path])
    path.write_text("a" * 1_900_000)
    with pytest.raises(RulesError, match="this name has 1,900,000 characters"):
        loader.check([path])
    path.write_text('component a "x"\n' + 'sort T "a"\n' * 20_000)
    with pytest.raises(RulesError, match="declared twice"):
        loader.check([path])


def test_unrelated_components_may_use_the_same_names(tmp_path: Path) -> None:
    path = tmp_path / "two.rules"
    path.write_text(HEAD + HEAD.replace("component small", "component other"))
    assert loader.check([path]) == []


def test_no_file_and_no_system(tmp_path: Path) -> None:
    for argument, name in ((tmp_path / "none.rules", "no_file"), (tmp_path, "a_folder")):
        with pytest.raises(UsageError) as caught:
            loader.load(str(argument))
        compare(name, str(caught.value).replace(str(tmp_path), "FOLDER"), tmp_path)
    with pytest.raises(UsageError, match="Did you mean `hypervisor`"):
        loader.load("hypervizor")
    path = tmp_path / "no_system.rules"
    path.write_text(HEAD)
    with pytest.raises(UsageError, match="holds 0 systems"):
        loader.load(str(path))


def test_cut_anywhere(tmp_path: Path) -> None:
    """A file cut off at any place is refused with a message, or it is good."""
    text = (Path(__file__).parent / "benchmarks" / "gt.rules").read_text()
    path = tmp_path / "cut.rules"
    for end in range(0, len(text), 397):
        path.write_text(text[:end])
        try:
            loader.check([path])
        except RulesError as error:
            assert "cut.rules:" in str(error)


def test_long_chains_are_no_nesting(tmp_path: Path) -> None:
    path = tmp_path / "long.rules"
    parts = " or ".join(["marked[t]", "is_red(t)"] * 400)
    path.write_text(small(f"invariant long forall t: Thing. {parts}\n"))
    assert loader.check([path]) == []


def test_quotes_and_brackets_in_comments(tmp_path: Path) -> None:
    path = tmp_path / "comment.rules"
    path.write_text(small('-- a stray " and ' + "(" * 500 + "\n" + PAINT + '-- and " another\n'))
    assert loader.check([path]) == []


# Syntax of other languages, each at its usual place.
FOREIGN_ITEMS = r"""
theorem a !marked[x]
theorem a ~marked[x]
theorem a marked[x] -> marked[y]
theorem a marked[x] => marked[y]
theorem a marked[x] <-> marked[y]
theorem a marked[x] <=> marked[y]
theorem a marked[x] /\ marked[y]
theorem a marked[x] \/ marked[y]
theorem a marked[x] & marked[y]
theorem a marked[x] || marked[y]
theorem a x # y
theorem a x ~= y
theorem a x /= y
theorem a x == y
theorem a marked[x]'
theorem a marked'[x]
theorem a \A x \in Thing : marked[x]
theorem a \E x \in Thing : marked[x]
theorem a x \in y
theorem a x \notin y
theorem a x \cup y
theorem a [](marked[x])
theorem a [] marked[x]
theorem a <>(marked[x])
theorem a marked[x] ~> marked[y]
theorem a forall X. marked[X]
theorem a forall X:Thing, Y. marked[X]
theorem a x <= y
theorem a x + 1 = y
theorem a x - y = x
theorem a 3 = x
theorem a IF x THEN y ELSE z
theorem a x = CHOOSE y : z
theorem a UNCHANGED x
invariant [a] marked[x]
axiom [a] marked[x]
safety [a] marked[x]
conjecture marked[X]
property marked[X]
relation r(X:Thing, Y:Thing)
immutable relation r(Thing)
mutable relation r(Thing)
function f(X:Thing) : Thing
individual x : Thing
type t
constant k : Thing
variable x : Thing
module m = {
object o = {
isolate i = o with p
instance i : m
instantiate m
include order
import a
export a
interpret t -> bv[3]
definition d(X:Thing) = marked(X)
derived relation d(Thing)
action go(x:Thing) = {
transition go(x: Thing) modifies marked
transition go() modifies marked
after init { marked(X) := false }
internal a(x: Thing) marked[x] := true
internal a(x: Thing) marked(x) := true;
internal a(x: Thing) set marked[x] = true;
internal a(x: Thing) if marked[x] { set marked[x] = false }
internal a(x: Thing) while marked[x] { set marked[x] = false }
internal a(x: Thing) call b(x)
internal a(x: Thing) local y : Thing
internal a(x: Thing) var y : Thing
internal a(x: Thing) assume marked[x]
internal a(x: Thing) assert marked[x]
internal a(x: Thing) requires marked[x]
internal a(x: Thing) ensures marked[x]
internal a(x: Thing) ensure marked[x]
internal a(x: Thing) modifies marked
internal a(x: Thing) let y = *
VARIABLE x
VARIABLES x, y
CONSTANT k
CONSTANTS k, m
EXTENDS Naturals
ASSUME k
ASSUMPTION k
THEOREM Spec
INVARIANT TypeOK
INSTANCE M
UNCHANGED x
# a comment
// a comment
\* a comment
(* a comment *)
"""


def test_signs_and_words_of_other_languages() -> None:
    """Each gets one message, at its place, which says what to write here."""
    told = []
    for line in FOREIGN_ITEMS.strip().split("\n"):
        with pytest.raises(RulesError) as caught:
            parse_text(HEAD + line + "\n", "bad.rules")
        (problem,) = caught.value.problems
        assert problem.code == "E0112", line
        told.append(str(caught.value))
    golden = GOLDEN / "foreign.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text("\n".join(told) + "\n")
    assert "\n".join(told) + "\n" == golden.read_text()


def test_words_of_other_languages_may_be_names(tmp_path: Path) -> None:
    """All of them are good names here, but for those of the language."""
    path = tmp_path / "names.rules"
    names = [
        n for n in {*foreign.WORDS, *foreign.CAPITALS, *foreign.SORTS, *foreign.NAMES} if n not in ("if", "set", "call")
    ]
    path.write_text(small("".join(f"state {n}[Thing]: bool\n" for n in names)))
    assert loader.check([path]) == []


# Codes.

CODE = re.compile(r"[EW]\d{4}")


@pytest.mark.parametrize("word", BELONGS)
def test_a_word_in_the_wrong_place_is_told_where_it_belongs(word: str) -> None:
    with pytest.raises(RulesError) as caught:
        parse_text(f'component c "c"\nsort T "t"\n{word} T\n', "bad.rules")
    (problem,) = caught.value.problems
    assert (problem.code, problem.span.line, problem.hint) == ("E0101", 3, BELONGS[word])


def used_codes() -> list[str]:
    """The codes of messages in the sources of `model/`; one for each place that makes a message."""
    found = []
    for path in sorted(Path(diagnostics.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            called = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and called in ("problem", "Problem"):
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found.append(str(first.value))
                else:
                    assert isinstance(first, ast.Name) and first.id == "code", f"{path}:{node.lineno}: no code"
    return found


def test_every_code_is_explained_once() -> None:
    """The reference lists each code of a message exactly once, and no other codes."""
    chapter = (loader.SPEC / "README.md").read_text().partition("## 8. Messages")[2]
    listed = re.findall(r"^\| `([EW]\d{4})` \|", chapter, re.MULTILINE)
    used = used_codes()
    assert len(used) > 60 and all(CODE.fullmatch(code) for code in used)
    assert listed == sorted(set(used)), set(listed) ^ set(used)


NOT_SHOWN = {
    "W0701",  # warnings: see below
    "W0702",
    "E0305",
}  # the grammar rejects the record before this message is possible


def test_every_code_is_shown() -> None:
    """Each code occurs in a golden file, so every message can really occur."""
    shown = {code for path in GOLDEN.glob("*.txt") for code in re.findall(r"\[([EW]\d{4})\]", path.read_text())}
    assert set(used_codes()) - shown == NOT_SHOWN


def test_a_warning_has_a_code_of_warnings(tmp_path: Path) -> None:
    path = tmp_path / "w.rules"
    path.write_text(small("state edge[Thing, Thing]: bool\ninvariant chain forall x: Thing. exists y: Thing. edge[x, y]\n"))
    (warning,) = loader.check([path])
    assert warning.warning and warning.code.startswith("W")
    assert f"warning: {warning.what} [{warning.code}]\n" in diagnostics.render([warning], {str(path): path.read_text()})


GUARDED = """component guarded "Things that may be used."
sort Thing "a thing"
state shut[Thing]: bool
state marked[Thing]: bool
define may_use(t: Thing) = not shut[t]
define safe(t: Thing) = marked[t] implies may_use(t)
init forall t: Thing. not marked[t]
request use(t: Thing)
    require may_use(t) else EACCES
    set marked[t] = true
theorem marked_may forall t: Thing. safe(t)
transition kept forall t: Thing. marked[t] implies next(marked[t])
fault anything breaks marked_may in use
    within may_use replace not shut[t] with true
fault no_check breaks marked_may in use
    within use drop may_use(t)
system guarded "All there is." uses guarded expect proved marked_may, kept
"""


def test_a_fault_that_changes_what_is_claimed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By `check`, and by `attack`, which finds nothing, as the claim is as weak as the check. Of another nothing is said."""
    path = tmp_path / "w.rules"
    path.write_text(GUARDED)
    (warning,) = loader.check([path])
    assert (warning.code, warning.warning) == ("W0702", True)
    assert warning.what == "fault `anything` changes `may_use`, and with it what is claimed by `marked_may`"
    assert run(["attack", str(path), "--fault", "anything", "--out", str(tmp_path / "out")]) == 1
    assert "[W0702]" in capsys.readouterr().err
    assert run(["attack", str(path), "--fault", "no_check", "--out", str(tmp_path / "out")]) == 0
    assert "W0702" not in capsys.readouterr().err
