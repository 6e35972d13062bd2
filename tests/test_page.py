"""The page over all experiments: what is on it, that it is sound, that a browser shows it."""

import html
import json
import re
import shutil
import subprocess
import sys
import types
from dataclasses import dataclass
from html.parser import HTMLParser

import numpy as np
import pytest

from experiments import __main__ as command_line
from experiments import config, consistency, figures, joint, report, shifts, store
from experiments.report import Claim, Column, Row, Section, Sheet, percent
from experiments.stamp import stamp

FACTS = stamp() | {"losses": [1.0], "wall_seconds": 2.5, "workers": 2}
VARIANTS = ("stride", "max", "max_aps")


def command(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["experiments", *map(str, words)])
    command_line.main()


def random_cells(root) -> dict[str, np.ndarray]:
    """Cells of `consistency` with random answers; their predictions."""
    random, answers = np.random.default_rng(0), {}
    grid = shifts.exhaustive(8)
    for cell in consistency.cells("smoke", seeds=1, variants=VARIANTS):
        labels = random.integers(0, 10, 20).astype(np.uint8)
        moved = random.random((len(grid), 20)) < {"stride": 0.5, "max": 0.2}.get(cell.variant, 0)
        moved[0] = False
        answers[cell.variant] = predictions = (labels + moved).astype(np.uint8)
        arrays = {"shifts": grid, "predictions": predictions, "labels": labels}
        arrays |= {"images": np.arange(20)}
        arrays |= {"train_predictions": labels, "train_labels": labels}
        store.save(root, cell, FACTS, arrays | {"period_predictions": predictions[:1]})
    return answers


# --- an experiment that does nothing ---


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    experiment: str = "toy"
    size: int


SEEDS = {"smoke": (1, 1), "quick": (2, 3), "full": (2, 10)}
"""Preset -> size, seeds. Quick and full differ in seeds alone."""


def toy(section, name="toy"):
    def cells(preset, data=None, seeds=None, variants=()):
        size, usual = SEEDS[preset]
        data = config.choose("data", data or "dots", ["dots", "lines"])
        some = {"experiment": name, "data": data, "variant": "max", "size": size}
        return [Config(**some, seed=seed) for seed in range(seeds or usual)]

    module = types.ModuleType(f"experiments.{name}")
    what = {"NAME": name, "QUESTION": f"Is {name} <so>?", "Config": Config, "cells": cells}
    vars(module).update(what, PRESETS=dict.fromkeys(SEEDS), section=section)
    return module


def plain(cells) -> Section:
    rows = [Row("max", "max", {"accuracy": np.full(len(cells), 0.5)})]
    sheets = [Sheet(name, "T", [Column("accuracy", "a", "A & b.")], rows, "") for name in "ab"]
    claims = [Claim("x < y", "2 < 1.", False, "nobody")]
    return Section("Is toy <so>?", "It is `so`.", [], sheets, "Little.", claims, ["Run `x -y`."])


def keep(root, preset, seeds, data="dots", name="toy"):
    for cell in toy(plain, name).cells(preset, data, seeds):
        store.save(root, cell, FACTS, {})


@pytest.mark.parametrize(
    ("stored", "shown", "besides"),
    [
        ([("smoke", 1), ("quick", 2)], "quick --data dots", ["smoke --data dots"]),
        ([("quick", 3)], "quick --data dots", []),  # whole, though full has the same cells
        ([("quick", 4)], "quick --data dots --seeds 4", []),
        ([("full", 10), ("smoke", 1)], "full --data dots", ["smoke --data dots"]),
        ([("quick", 1, "lines"), ("smoke", 1)], "smoke --data dots", ["quick --data lines"]),
    ],
)
def test_what_is_shown_is_the_study_of_which_most_is_stored(tmp_path, stored, shown, besides):
    for some in stored:
        keep(tmp_path, *some)
    module = toy(plain)
    cells = list(store.cells(tmp_path, "toy", Config))
    studies = [s.command("run") for s in joint._studies(module, None, None, cells)]
    start = "python -m experiments run toy --preset "
    assert studies == [start + each for each in (shown, *besides)]
    (only,) = joint._studies(module, stored[0][0], None, cells)
    assert len(only.cells) == stored[0][1]


def test_what_is_of_one_commit_has_a_page_of_its_own(tmp_path):
    module, out = toy(plain, "times"), tmp_path / "report"
    module.OF_ONE_COMMIT = True
    keep(tmp_path, "quick", 1, name="times")
    assert joint.report([module], None, None, root=tmp_path, out=out) == []
    for page in "report.html", "report.md":
        assert "See times.md, beside this page" in (out / page).read_text()
    assert "2 < 1." in (out / "times.md").read_text()


# --- the page ---

VOID = {"meta", "link", "img", "source", "br"}


class Page(HTMLParser):
    """Reads a page, and lists in `faults` what is wrong with it."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.faults, self.ids, self.links, self.headings = [], [], [], [], []
        self.tables, self.images, self.text = [], 0, text
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self.open]
        self.faults += [f"#{i} is there twice" for i in {*self.ids} if self.ids.count(i) > 1]
        self.faults += [f"#{i} leads nowhere" for i in self.links if i not in self.ids]
        self.faults += ["a table has no header"] * self.tables.count(0)
        jumps = zip(self.headings, self.headings[1:], strict=False)
        self.faults += [f"h{b} after h{a}" for a, b in jumps if b > a + 1]
        self.faults += ["not one h1"] * (self.headings.count(1) != 1)
        self.faults += [word for word in ("http", "<script", "url(") if word in text]

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"][1:]] if tag == "a" else []
        self.links += [attrs["aria-labelledby"]] if "aria-labelledby" in attrs else []
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        self.tables += [0] if tag == "table" else []
        if tag == "th":
            self.tables[-1] += 1
            self.faults += ["a header without scope"] * ("scope" not in attrs)
        if tag == "img":
            self.images += 1
            self.faults += ["an image without words"] * (not attrs.get("alt"))
        for name in {"src", "srcset"} & attrs.keys():
            start = attrs[name].startswith("data:image/png;base64,")
            self.faults += [f"{name} is not inline"] * (not start)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<h1>a</h1><p>", "<p> is not closed"),
        ("<h1>a</h1><p></b></p>", "</b> closes nothing"),
        ('<h1 id="a">a</h1><p id="a"></p>', "#a is there twice"),
        ('<h1>a</h1><a href="#b">b</a>', "#b leads nowhere"),
        ("<h1>a</h1><table></table>", "a table has no header"),
        ("<h1>a</h1><table><th></th></table>", "a header without scope"),
        ("<h1>a</h1><h3>b</h3>", "h3 after h1"),
        ("<h2>a</h2>", "not one h1"),
        ('<h1>a</h1><img src="data:image/png;base64,A">', "an image without words"),
        ('<h1>a</h1><img alt="a" src="b.png">', "src is not inline"),
        ("<h1>http</h1>", "http"),
    ],
)
def test_the_reader_of_pages_sees_a_fault(text, fault):
    assert fault in Page(text).faults


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of four experiments: one in part, one whole, one not measured, one that fails."""
    root = tmp_path_factory.mktemp("results")
    answers = random_cells(root)
    whole, broken = toy(plain), toy(lambda cells: cells[0].arrays["gone"], "broken")
    keep(root, "quick", 3)
    keep(root, "smoke", 1)
    keep(root, "smoke", 1, name="broken")
    with pytest.MonkeyPatch.context() as patch:
        modules = {
            name: f"experiments.{name}" for name in ("consistency", "broken", "toy", "speed")
        }
        patch.setattr(command_line, "EXPERIMENTS", modules)
        for module in whole, broken:
            patch.setitem(sys.modules, module.__name__, module)
        with pytest.raises(SystemExit) as stopped:
            command(patch, "report", "all", "--results", root)
    return types.SimpleNamespace(
        code=stopped.value.code,
        out=root / "report",
        answers=answers,
        text=(root / "report" / "report.html").read_text(),
    )


def words(text: str) -> str:
    """What is to be read on a page."""
    text = re.sub("<style>.*?</style>", "", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub("<[^>]*>", "", text)).split())


def part(text: str, name: str) -> str:
    return re.search(f'<h2 id="{name}".*?</section>', text, re.DOTALL)[0]


def test_the_pages_are_sound(made):
    page = Page(made.text)
    assert page.faults == [] and page.images == 2 and len(page.tables) == 5
    for name in "consistency", "toy":
        assert Page((made.out / f"{name}.html").read_text()).faults == []


def test_the_first_screen_is_the_answer_and_its_picture(made):
    top, rest = made.text.split("<nav", 1)
    answers = [np.mean(made.answers[name] == made.answers[name][0]) for name in VARIANTS]
    shares = [f"{100 * share:.0f} %" for share in answers]
    said = f"gets the answer of the unshifted one in {shares[2]} of the cases with"
    assert said in words(top) and f"{shares[1]} with max" in words(top)
    assert f"{shares[0]} with strided convolution (mean of 1 seed). The most" in words(top)
    assert top.count("<figure>") == 1 and "Accuracy against consistency" in top
    assert said in words(part(rest, "consistency"))


def test_every_experiment_has_its_place_in_the_order_of_the_table(made):
    contents = re.findall(r'<a href="#(\w+)">(.*?)</a>\s*<span class="small">(.*?)<', made.text)
    names = ["consistency", "broken", "toy", "speed"]
    assert [name for name, *_ in contents] == names
    assert re.findall('<h2 id="(.*?)">', made.text.split("<main>")[1]) == names
    states = {name: html.unescape(state) for name, _, state in contents}
    assert states["consistency"].endswith("; cells are missing")
    assert states["broken"] == "broken: its report failed"
    assert states["toy"] == "toy: 0 of 1 expectations hold"
    assert states["speed"] == "speed: not measured yet"


def test_cells_of_several_commits_are_said_on_the_page(tmp_path):
    module, out = toy(plain), tmp_path / "report"
    for seed, cell in enumerate(toy(plain).cells("quick")):
        store.save(tmp_path, cell, FACTS | {"commit": "0f079bf" if seed else "1584420"}, {})
    joint.report([module], "quick", None, root=tmp_path, out=out)
    for page in "report.html", "report.md", "toy.html", "toy.md":
        text = (out / page).read_text()
        assert "The cells are of 2 commits: 2 of 0f079bf, 1 of 1584420." in text
    keep(tmp_path, "quick", 3)
    joint.report([module], "quick", None, root=tmp_path, out=out)
    assert "commits:" not in (out / "report.html").read_text()


def test_what_is_seen_in_a_picture_is_said_to_who_does_not_see_it(made):
    shares = [100 * np.mean(made.answers[name] == made.answers[name][0]) for name in VARIANTS]
    said = f"consistency from {shares[0]:.3g} % with strided convolution to 100 % with max + APS"
    (alt,) = re.findall('alt="(Accuracy against .*?)"', made.text)
    assert html.unescape(alt).startswith(f"Accuracy against consistency under shifts: {said}, acc")
    row = Row("a", "A", {"x": np.array([0.1, 0.2])})
    assert report.means([row], "x") == pytest.approx({"A": 0.15})
    assert report.extremes({"a": 0.5, "b": 0.00075}) == "from 0.075 % with b to 50 % with a"
    assert report.extremes({"a": 0.5, "b": 1e-9}) == "from 0 % with b to 50 % with a"
    assert report.extremes({"a": 0.5, "b": 0.5}) == "50 % with all"


def test_a_verdict_may_be_open():
    claims = [Claim("this", "that", holds, "someone") for holds in (True, None, False, None)]
    assert [claim.verdict for claim in claims] == ["yes", "open", "no", "open"]
    section = Section("?", "!", [], [], "", claims, [])
    study = types.SimpleNamespace(missing=0, note="", commits="", command=lambda verb: verb)
    shown = report.Shown(study, section, [], [])
    assert joint._state(shown) == "1 of 4 expectations hold, 2 are open"
    page, text = (
        report.render(f"report.{kind}.j2", shown=shown).decode() for kind in ("html", "md")
    )
    assert page.count("Open: that") == 2 and "<strong>No</strong>: that" in page
    assert text.count("| this | open | that") == 2 and "| this | **no** | that" in text


def test_the_answers_are_there_as_text(made):
    text = (made.out / "report.md").read_text()
    titles = re.findall("^## (.*)$", text, re.MULTILINE)
    assert titles[0] == consistency.QUESTION and len(titles) == 4
    assert "gets the answer of the unshifted one in" in text
    assert "Its report failed (KeyError: 'gone')" in text
    assert "cells 3, time 4 s, device" in text  # three times 2.5 s, two at a time
    for lines in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):  # every table is one
        assert len({line.count("|") for line in lines.splitlines()}) == 1


def test_what_is_missing_is_said_with_its_command(made):
    smoke = "cells are missing: run python -m experiments run consistency --preset smoke --data"
    there = f"--results {made.out.parent}"
    assert f"3 of 6 {smoke} digits {there}." in words(part(made.text, "consistency"))
    run = "Not measured yet: run python -m experiments run speed --preset quick --data random"
    assert f"{run} {there}." in words(part(made.text, "speed"))
    assert "missing" not in part(made.text, "toy")


def test_a_report_that_fails_takes_no_other_with_it(made):
    assert made.code == 1
    again = f"python -m experiments report broken --preset smoke --results {made.out.parent}"
    said = words(part(made.text, "broken"))
    assert f"Its report failed (KeyError: 'gone'): {again} shows where." in said
    assert not list(made.out.glob("broken*"))


def test_numbers_are_those_of_the_stored_answers(made):
    rows = re.findall(
        r'<th scope="row">(.*?)</th>(.*?)</tr>', part(made.text, "consistency"), re.DOTALL
    )
    table = {row: re.findall("<td>(.*?)</td>", cells) for row, cells in rows}
    for name, title in zip(VARIANTS, ("strided convolution", "max", "max + APS"), strict=True):
        answers = made.answers[name]
        assert table[title][2] == percent(np.array([np.mean(answers == answers[0])]))
        assert table[title][4] == percent(np.array([np.mean((answers == answers[0]).all(0))]))


def test_a_plain_experiment_is_shown_as_it_is(made):
    shown = part(made.text, "toy")
    for sentence in (
        "Is toy &lt;so&gt;?",
        "<strong>No</strong>: 2 &lt; 1.",
        "A &amp; b.",
        "nobody",
    ):
        assert sentence in shown
    assert "<td>50.0 ± 0.0</td>" in shown and "Little." in shown
    assert "<code><span>x</span> <span>-y</span></code>" in shown
    assert "report toy --preset smoke --data dots" in words(shown)


def test_files_lie_beside_the_page(made):
    stems = {"consistency": ("html", "md", "csv"), "toy": ("html", "md"), "report": ("html", "md")}
    names = {f"{stem}.{kind}" for stem, kinds in stems.items() for kind in kinds}
    names |= {
        f"consistency-{name}.{kind}" for name in ("pareto", "maps") for kind in ("png", "svg")
    }
    assert {path.name for path in made.out.iterdir()} == names | {"toy-a.csv", "toy-b.csv"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            [],
            "There is nothing to show in .* Not measured yet: run `python -m experiments run cons",
        ),
        (["--preset", "fast"], "Unknown preset 'fast': write one of smoke, quick, full."),
    ],
)
def test_a_mistake_is_answered_by_one_sentence(monkeypatch, capfd, tmp_path, words, sentence):
    with pytest.raises(SystemExit) as stopped:
        command(monkeypatch, "report", "all", "--results", tmp_path, *words)
    errors = capfd.readouterr().err
    assert stopped.value.code == 2
    assert re.search(sentence, errors) and len(errors.strip().splitlines()) == 1


# --- in a browser ---

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), ""
)
WIDTHS = (390, 1280)

MEASURE = """
<script>
function measure() {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const folded = root.scrollWidth;
    page.querySelectorAll("details").forEach(details => { details.open = true; });
    return {
      scroll: Math.max(folded, root.scrollWidth), text: page.body.innerText.length,
      images: [...page.images].map(image => image.complete ? image.naturalWidth : 0),
    };
  });
  document.body.innerHTML = "<pre>measured: " + JSON.stringify(seen) + " :measured</pre>";
}
addEventListener("load", () => setTimeout(measure, 500));
</script>
"""


def browse(text: str, folder, widths=WIDTHS) -> tuple[list[dict], str]:
    """Show a page in frames of these widths: what was measured in each, and the errors."""
    frame = '<iframe srcdoc="{}" width="{}" height="844" style="border: 0"></iframe>'
    frames = [frame.format(html.escape(text), width) for width in widths]
    harness = folder / "harness.html"
    harness.write_text(f"<!DOCTYPE html><meta charset=utf-8>{''.join(frames)}{MEASURE}")
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    flags = ["--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars"]
    flags += [f"--disable-{name}" for name in quiet]
    flags += [f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"]
    flags += ["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"]
    line = [BROWSER, *flags, harness.as_uri()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, check=True)
    found = re.search("measured: (.*?) :measured</pre>", done.stdout, re.DOTALL)
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])), "\n".join(errors)


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
def test_a_browser_shows_the_page(made, tmp_path):
    seen, errors = browse(made.text, tmp_path)
    assert errors == ""
    for width, page in zip(WIDTHS, seen, strict=True):
        assert page["scroll"] <= width and page["text"] > 1000
        assert len(page["images"]) == 2 and min(page["images"]) > 0
    assert max(seen[0]["images"]) < min(seen[1]["images"])  # a phone is shown narrow pictures


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
def test_the_browser_sees_faults(tmp_path):
    faults = '<p style="width: 500px">a<details><p style="width: 600px">b</details>'
    faults += '<img src="data:image/png;base64,AAAA"><script>lost()</script>'
    ((page,), errors) = browse(faults, tmp_path, widths=(390,))
    assert page["scroll"] > 600 and page["images"] == [0]
    assert "lost is not defined" in errors


def test_the_same_picture_is_the_same_file():
    def images():
        return report._images(figures.dots({"max": {"plain": np.arange(3.0)}}, "x"), "png", "svg")

    assert images() == images()
