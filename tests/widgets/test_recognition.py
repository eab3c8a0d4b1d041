"""The recognition test: plan, pictures, scores and files."""

import random
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from test_depths import cuts

import nbhelpers as nb
from nbhelpers import widgets
from nbhelpers.figures.answers import INVERSION, ORIGINAL, Answer, read_answers, write_answers
from nbhelpers.widgets.trials import Condition, plan_trials

CONDITIONS = [Condition(n, f"layer{k}", k) for n in ("robust", "standard") for k in (1, 2, 3, 4)]
NAMES = [f"thing {k % 45}" for k in range(60)]
COLOURS = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))


def plan(**options):
    return plan_trials(NAMES, COLOURS, CONDITIONS, **options)


def answer(condition=INVERSION, right=True, **given) -> Answer:
    original = condition == ORIGINAL
    about = {
        "network": "" if original else "tiny",
        "layer": "" if original else "1 (layer1)",
        "image": "panda",
        "answer": "panda" if right else "hammer",
        "time": 1.5,
        "choices": 10,
        "seed": 0,
        "set": "photographs",
        "version": "0.2.0",
    }
    return Answer(condition=condition, right=right, **(about | given))


def session(right, originals=8, **given) -> list[Answer]:
    """A session with `right` of ten inversions and `originals` of eight originals recognised."""
    some = [answer(right=k < right, **given) for k in range(10)]
    return some + [answer(ORIGINAL, k < originals, **given) for k in range(8)]


def put(folder, name, answers):
    (folder / name).write_text(write_answers(answers), encoding="utf-8")
    return folder / name


def test_no_picture_comes_twice_and_conditions_are_balanced():
    for seed in range(5):
        trials = plan(seed=seed)
        assert len({trial.image for trial in trials}) == 40
        counts = Counter(trial.condition for trial in trials)
        assert counts.pop(Condition()) == 8 and set(counts.values()) == {4}
        assert trials[0].condition == Condition()  # needs no computing
        for k in range(0, 40, 10):  # each round has each condition once
            part = Counter(trial.condition for trial in trials[k : k + 10])
            assert all(part[one] == 1 for one in CONDITIONS) and part[Condition()] == 2
    assert plan(seed=3) == plan(seed=3) != plan(seed=4)


def test_the_right_name_is_among_ten_and_the_others_are_near_in_colour():
    for trial in plan():
        assert len(set(trial.choices)) == 10 and trial.choices[trial.right] == NAMES[trial.image]
        assert list(trial.choices) == sorted(trial.choices, key=str.lower)
        far = (COLOURS - COLOURS[trial.image]).norm(dim=1)
        order = dict.fromkeys(NAMES[k] for k in far.argsort().tolist())
        near = [name for name in order if name != NAMES[trial.image]][:18]
        assert set(trial.choices) - {NAMES[trial.image]} <= set(near)


def test_a_plan_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="3 have a name, 40 trials need as many"):
        plan_trials(["a", "b", "", "–", "c"], torch.rand(5, 3), CONDITIONS)
    with pytest.raises(ValueError, match="trials: got 8, wanted more than 8"):
        plan(trials=8)
    with pytest.raises(ValueError, match="choices: got 11, wanted 2 to 10"):
        plan(choices=11)


def test_a_guesser_is_at_chance_and_a_perfect_one_at_one():
    chance, guesses, known = random.Random(0), [], []
    for seed in range(20):
        for trial in plan(seed=seed):
            for answers, choice in (
                (guesses, chance.randrange(len(trial.choices))),
                (known, trial.right),
            ):
                kind = INVERSION if trial.condition.network else ORIGINAL
                answers.append(answer(kind, choice == trial.right))
    guesser, perfect = nb.figures.answers.Recognised(guesses), nb.figures.answers.Recognised(known)
    assert guesser.chance == pytest.approx(0.1)
    for mean in guesser.accuracy.values():
        assert mean.low <= 0.1 <= mean.high
    for mean in perfect.accuracy.values():
        assert mean.mean == mean.high == 1 and mean.low > 0.97


def test_a_file_is_read_as_it_was_written(tmp_path):
    answers = [replace(one, image='a "b", c', time=2.25) for one in session(7)]
    assert read_answers(put(tmp_path, "a.csv", answers)) == answers
    head = (tmp_path / "a.csv").read_text(encoding="utf-8").partition("\n")[0]
    assert head == "condition,network,layer,image,answer,right,time,choices,seed,set,version"


def test_several_people_are_joined(tmp_path):
    put(tmp_path, "a.csv", session(7))
    put(tmp_path, "b.csv", session(9, seed=1))
    found = nb.recognised(f"{tmp_path}/*.csv")
    assert found.people == 2 and not found.notes
    assert found.table[0][:2] == ("originals", "16 of 16")
    assert found.table[1] == ("tiny, 1 (layer1)", "16 of 20", "0.80 (0.58–0.92)", "1.5 s")
    assert "(2 people; chance 0.1)" in str(found) == repr(found)
    assert found.figure()._repr_png_().startswith(b"\x89PNG")
    assert nb.recognised(tmp_path / "a.csv").people == 1


def test_who_fails_the_originals_and_a_copy_are_left_out_and_it_says_so(tmp_path):
    put(tmp_path, "a.csv", session(7))
    put(tmp_path, "b.csv", session(9, originals=5, seed=1))
    put(tmp_path, "copy.csv", session(7))
    found = nb.recognised(tmp_path.glob("*.csv"), least=0.75)
    assert found.people == 1 and len(found.answers) == 18
    assert any("b.csv, 5 of 8 originals right, 75% are needed" in note for note in found.notes)
    assert any(
        "copy.csv, the same answers" in note or "a.csv, the same" in note for note in found.notes
    )
    assert "left out: b.csv" in str(found)
    with pytest.raises(ValueError, match="nobody is left"):
        nb.recognised(tmp_path / "b.csv")


@pytest.mark.parametrize("field, other", [("version", "0.3.0"), ("set", "objects")])
def test_mixed_versions_and_sets_are_refused(tmp_path, field, other):
    put(tmp_path, "a.csv", session(7))
    put(tmp_path, "b.csv", session(7, **{field: other}))
    with pytest.raises(ValueError, match=f"files: {field}s differ"):
        nb.recognised(f"{tmp_path}/*.csv")


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\x00\xff", write_answers([])])
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"files: a\.csv has no answers") as raised:
        nb.recognised(tmp_path / "a.csv")
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="nothing matches"):
        nb.recognised(f"{tmp_path}/*.txt")


def wait(session: widgets.Recognition, state: str) -> None:
    for _ in range(2000):
        if session.trial["state"] == state:
            return
        time.sleep(0.01)
    pytest.fail(f"{state} does not come: {session.trial}")


@pytest.fixture
def test_session():
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    models = {"robust": cuts(1)}
    made = widgets.recognition(models, images, list("abcdefgh"), trials=6, steps=1, seed=4)
    yield made
    made.close()


def test_a_whole_session_ends_in_a_table_and_a_file(test_session, tmp_path):
    session = test_session
    assert session.trial == {"state": "ready", "number": 0, "total": 6}
    session._handle_custom_msg({"type": "begin"}, [])
    pictures = set()
    for number in range(6):
        wait(session, "shown")
        assert session.trial["number"] == number and "right" not in session.trial
        pictures.add(session.picture)
        right = session._plan[number].right
        content = {"type": "answer", "number": number, "choice": right, "seconds": 0.5}
        session._handle_custom_msg(content, [])
        session._handle_custom_msg(content, [])  # a second press of the key is ignored
    wait(session, "ends")
    assert len(pictures) == 6 and len(session.answers) == 6
    assert session.result["file"]["name"] == "answers-4.csv"
    session.save(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == session.result["file"]["text"]
    found = nb.recognised(tmp_path / "a.csv")
    assert [list(row) for row in found.table] == session.result["rows"]
    assert found.table[0][:2] == ("originals", "2 of 2")
    assert {one.layer for one in found.answers} == {"", "1 (layer1)", "2 (layer4)"}
    assert repr(session) == "Recognition(6 trials)"


def test_an_error_of_the_kernel_is_shown(test_session):
    test_session._handle_custom_msg({"type": "answer"}, [])
    assert test_session.trial["state"] == "error" and "KeyError" in test_session.trial["text"]


def test_an_opened_set_brings_its_own_names(tiny_model):
    opened = nb.open_images("photographs")
    models = {"robust": cuts(1)}
    made = widgets.recognition(models, opened, trials=5, steps=1)
    assert made._images.shape[2:] == (32, 32) and set(made._names) <= set(opened.names)
    assert made._dataset.startswith("photographs ")
