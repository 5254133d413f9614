"""tools/report.py: the page of tiny runs, as text and in a headless Chromium."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

import cfg
from errors import UserError
from tools.common.files import read_json
from tools.reporting.curves import PANELS, Line, panels, style
from tools.reporting.methods import METHODS, Column

pytestmark = pytest.mark.usefixtures("small")

EVIL = '<script>window.broken = "dataset"</script>'
CLASS = '<img src=x onerror="window.broken = 1">'
MADE: dict[str, Path] = {}  # the results of a few runs, filled by the first test that needs them


@pytest.fixture
def results(run_script, words, tmp_path_factory) -> Path:
    """The folder of results: real runs, one renamed to names like EVIL, one stopped, one without an epoch."""
    if not MADE:
        for script, seeds in {"cnn/flm_vp": (7,), "cnn/ilm_vp": (7, 8), "cnn/linear_probing": (7,)}.items():
            for seed in seeds:
                run_script(f"experiments/{script}", *words(f"experiments/{script}"), "--epoch", 3, "--seed", seed)
        run_script("experiments/clip/zero_shot", *words("experiments/clip/zero_shot"))
        run_script("experiments/clip/ilm_tp_vp", *words("experiments/clip/ilm_tp_vp"), "--epoch", 2)
        MADE["results"] = tmp_path_factory.mktemp("made") / "results"
        shutil.copytree(cfg.results_path, MADE["results"])
        copy_run("ilm_vp", "evil", {"dataset": EVIL}, {"dataset": EVIL, "mapping": {CLASS: "tabby & co"}})
        copy_run("flm_vp", "stopped", {"seed": 9}, {"seed": 9, "status": "interrupted"})
        (copy_run("flm_vp", "begun", {"seed": 10}, {}) / "result.json").unlink()
        shutil.rmtree(cfg.results_path)
    shutil.copytree(MADE["results"], cfg.results_path)
    return cfg.results_path


def copy_run(method: str, name: str, args: dict, result: dict) -> Path:
    """A copy of the method's run with seed 7, with other arguments and results."""
    (run,) = (MADE["results"] / "cnn" / method).glob("*seed7*")
    path = shutil.copytree(run, run.with_name(name))
    for file, changes in (("args.json", args), ("result.json", result)):
        (path / file).write_text(json.dumps(json.loads((path / file).read_text()) | changes))
    return path


class Page(HTMLParser):
    """A page's elements, as (tag, attributes), and its text by the tag that holds it."""

    def __init__(self, html: str):
        super().__init__()
        self.html, self.elements, self.texts = html, [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append((self.lasttag, data))

    def values(self, attribute: str, tag: str | None = None) -> list[str]:
        return [own[attribute] for name, own in self.elements if attribute in own and tag in (None, name)]

    @property
    def text(self) -> str:
        return "".join(text for tag, text in self.texts if tag not in ("style", "script"))


@pytest.fixture
def page(results, run_script):
    """page("--metric", "best") -> the Page that the command makes."""
    return lambda *flags: Page(run_script("tools/report", *flags).read_text(encoding="utf-8"))


# The page as text ---------------------------------------------------------------------------------------------------


def test_it_is_one_file_that_needs_no_other(page):
    found = page()
    for address in (*found.values("src"), *found.values("href"), *found.values("xlink:href")):
        assert address.startswith(("data:image/webp;base64,", "#"))
    assert set(re.findall(r"url\((.)", found.html)) == {"#"} and "@import" not in found.html
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"link", "iframe", "object", "embed", "base", "audio", "video", "source", "foreignobject"}
    assert set(found.values("content", "meta")) > {"width=device-width, initial-scale=1"}
    (policy,) = (own["content"] for tag, own in found.elements if "http-equiv" in own)
    assert policy.startswith("default-src 'none'; img-src data:;")
    (script,) = re.findall(r"<script>(.*?)</script>", found.html, re.DOTALL)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    links = {link for link in (*found.values("href"), *found.values("xlink:href")) if link.startswith("#")}
    assert {link[1:] for link in links} <= set(ids)


def test_every_run_is_there_with_its_pictures_and_receipt(page, results):
    found = page()
    runs = [own for tag, own in found.elements if own.get("class") == "run"]
    assert len(runs) == 9 and len({own["data-run"] for own in runs}) == 9
    for path in results.glob("*/*/*/args.json"):
        args, result = (read_json(path.with_name(name)) for name in ("args.json", "result.json"))
        assert (result or args)["command"] in found.text and args["data_path"] in found.text
        if result:
            assert f"{result['test_acc_last']:.4g}" in found.text
            assert result["git_commit"] in found.text
    pictures = list(results.glob("*/*/*/prompt.png")) + list(results.glob("*/*/*/mapping.png"))
    images = [own for tag, own in found.elements if tag == "img"]
    assert len(found.html.split('id="runs"')[1].split("<img ")) == 1 + len(pictures)
    assert {own["loading"] for own in images} == {"lazy"}
    assert all(len(own["alt"]) > 20 for own in images)
    for own in images:
        with Image.open(BytesIO(base64.b64decode(own["src"].partition(",")[2]))) as image:
            assert (image.format, image.size) == ("WEBP", (int(own["width"]), int(own["height"])))
            assert max(image.size) <= 1200


def test_the_tables_are_those_of_results_table(page, results, run_script):
    for metric in ("last", "best"):
        found = page("--metric", metric).text
        for line in run_script("tools/results_table", "--metric", metric).splitlines():
            if line.startswith("|") and "---" not in line:
                cells = [re.escape(cell.strip(" *")) for cell in line.strip("| ").split(" | ")]
                assert re.search(r"\s*".join(cells), found)
            elif not line.startswith("|"):
                assert line.removeprefix("- ") in found


def test_published_numbers_stand_in_the_cells_of_ones_own(page, results):
    (run,) = results.glob("cnn/ilm_vp/tiny*seed7*")
    place = {"network": "resnet18", "dataset": "dtd"}
    for file, changes in (("args.json", place), ("result.json", place | {"classes": 47, "test_size": 1692})):
        (run / file).write_text(json.dumps(read_json(run / file) | changes))
    found = page("--network", "resnet18").html
    (row,) = re.findall(r'<tr data-dataset="dtd">.*?</tr>', found, re.DOTALL)
    assert ">1692</td>" in row and "<small>published 35.3</small></td>" in row and ">35.3 ILM-VP</td>" in row
    assert found.count("best published prompt") == 1 and "Chen et al., CVPR 2023, main table" in found


def test_what_comes_from_files_is_text(page):
    found = page("--network", "tiny")
    assert EVIL in found.text and f"{CLASS} → tabby & co" in found.text
    assert [tag for tag, _ in found.elements].count("script") == 1
    assert all("onerror" not in own and own.get("src") != "x" for _, own in found.elements)
    assert EVIL in found.values("data-dataset") and EVIL in found.values("value", "option")


def test_runs_that_are_not_finished_are_told_apart(page):
    found = page("--network", "tiny")
    for words in ("interrupted", "no result yet", "Runs not finished, left out: 2."):
        assert words in found.text
    assert "1 interrupted" in found.text and "5 finished" in found.text
    rows = re.findall(r"<tr data-run.*?</tr>", found.html, re.DOTALL)
    (begun,) = (row for row in rows if "no result yet" in row)
    assert ">3/3<" in begun and begun.count(">-<") == 0  # its numbers are the log's


def test_no_run_is_finished(page, results):
    for file in results.glob("*/*/*/result.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "running"}))
    found = page()
    for words in ("no run is finished yet", "8 running", "1 no result yet", "ILM-VP (epoch 3), unfinished, n = 2"):
        assert words in found.text
    assert found.html.count('role="img"') > 4


def test_damaged_files_are_named_and_the_rest_is_made(page, results, capsys):
    runs = {path.name: path for path in results.glob("cnn/ilm_vp/*")}
    first, second = (runs[f"tiny_small_seed{seed}_epoch3"] for seed in (7, 8))
    (first / "prompt.png").write_bytes(b"no picture")
    (first / "mapping.png").write_bytes((first / "mapping.png").read_bytes()[:3000])
    with (first / "log.jsonl").open("a") as log:
        log.write('{"epoch": 4, "test_')
    (second / "log.jsonl").write_bytes(b"\xff\xfe\x00")
    (runs["evil"] / "log.jsonl").write_text(json.dumps({"epoch": 1, "test_acc": "much", "seconds": None}) + "\n")
    (results / "cnn/linear_probing/tiny_small_seed7_epoch3/args.json").write_text("{")
    capsys.readouterr()
    found, told = page(), capsys.readouterr().out
    for where, what in (
        (first, "prompt.png cannot be read"),
        (first, "mapping.png cannot be read"),
        (first, "log.jsonl can be read up to its line 3 of 4."),
        (second, "log.jsonl cannot be read"),
        (runs["evil"], "log.jsonl cannot be summed up"),
    ):
        assert f"{where}: {what}" in told and f"{where}: {what}" in found.text
    assert "linear_probing" in told and "It is damaged" in found.text
    assert "Report of 8 runs" in told
    pictures = [*results.glob("*/*/*/prompt.png"), *results.glob("*/*/*/mapping.png")]
    assert len(found.html.split('id="runs"')[1].split("<img ")) == 1 + len(pictures) - 2


def test_flags_choose_runs(page, results, tmp_path, capsys):
    found = page("--network", "tiny", "--methods", "cnn/ilm_vp", "--seeds", 8, "--output", tmp_path / "mine.html")
    assert set(found.values("data-method")) == {"cnn/ilm_vp"}
    assert len([own for tag, own in found.elements if own.get("class") == "run"]) == 1
    assert not (results / "report.html").exists()
    size = (tmp_path / "mine.html").stat().st_size / 1e6
    assert capsys.readouterr().out.splitlines()[-1] == f"Report of 1 runs, {size:.1f} MB: {tmp_path / 'mine.html'}"
    assert "None of the runs" in page("--seeds", 99).text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--network", "tine"), "Did you mean --network tiny?"),
        (("nothing",), "There is none, nor such a folder."),
        (("--metric", "first"), "at-best-val"),
        (("--output", "no/page.html"), "Make it: mkdir -p no"),
        (("--output", "."), "Type: --output report.html"),
    ],
)
def test_a_mistake_is_one_message_of_three_lines(flags, message, results, run_script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        run_script("tools/report", *flags)
    assert len(str(caught.value).splitlines()) == 3


def test_a_script_of_the_users_own_is_in_table_and_report(page, results, run_script):
    """No file of the repository names this script. Its receipts are enough for a name and a colour of its own."""
    run = next((results / "cnn/flm_vp").glob("*seed7*"))
    mine = shutil.copytree(run, results / "cnn/my_method" / run.name) / "result.json"
    mine.write_text(json.dumps(read_json(mine) | {"method": "cnn/my_method"}))
    (head,) = (line for line in run_script("tools/results_table", "--network", "tiny").splitlines() if "| data" in line)
    assert head.split()[-2] == "my_method"
    found = page("--network", "tiny").html
    assert '<option value="cnn/my_method">my_method</option>' in found
    assert '<th scope="col" data-method="cnn/my_method">my_method</th>' in found
    (line,) = re.findall(r'<li data-leaf data-method="cnn/my_method">(.*?)</li>', found, re.DOTALL)
    assert line.endswith(" my_method")
    colours = set(re.findall("stroke: (#[0-9a-f]{6})", line))
    assert len(colours) == 1 and not colours & {row.colour.lower() for row in METHODS.values()}
    assert f"stroke: {colours.pop()}" in found.split('<g data-method="cnn/my_method">')[1]


# Side by side -------------------------------------------------------------------------------------------------------


def test_methods_stand_side_by_side(page, results):
    """Prompts, a confusion matrix a method, images that only some get right, and how ILM's map changed."""
    found = page("--network", "tiny").html
    (compared,) = re.findall(r'<section id="compared">.*?(?=<section id="runs">)', found, re.DOTALL)
    first, second = compared.split('<section data-network="tiny" data-dataset="')[1:]
    for words in ("FLM-VP", "ILM-VP, 2 seeds.", "LP. ", "Most frequent mistakes", "right \\ wrong"):
        assert words in first, words
    assert first.count("<svg") == 3 and second.count("<svg") == 1 and "right \\ wrong" not in second
    assert first.count('alt="The learned prompt on test images: ') == 2
    assert first.count('alt="test image ') > 0 and "The pictures of the test images are missing" not in first
    right = {}
    for script in ("flm_vp", "linear_probing"):
        (run,) = results.glob(f"cnn/{script}/tiny_small_seed7*")
        content = read_json(run / "test_predictions.json")
        right[script] = [a == b for a, b in zip(content["labels"], content["predicted"], strict=True)]
        assert sum(right[script]) == round(20 * read_json(run / "result.json")["test_acc_last"])
    wins = sum(a and not b for a, b in zip(right["flm_vp"], right["linear_probing"], strict=True))
    (row,) = re.findall(r'<th scope="row">FLM-VP.*?</tr>', first, re.DOTALL)
    assert re.findall(r">(\d*)</td>", row)[0] == "" and re.findall(r">(\d*)</td>", row)[-1] == str(wins)


def test_what_is_missing_for_the_comparison_is_told(page, results):
    """A run of an earlier version, damaged predictions, a run on other images, one with other class names."""
    runs = {path.name: path for path in results.glob("cnn/ilm_vp/tiny*")}
    first, second = (runs[f"tiny_small_seed{seed}_epoch3"] for seed in (7, 8))
    (first / "test_predictions.json").unlink()
    (second / "test_predictions.json").write_text('{"class_names": ["ant"], "labels": [0, 7], "predicted": [0, 0]}')
    (probing,) = results.glob("cnn/linear_probing/*")
    result = read_json(probing / "result.json")
    result["data"] |= {"test": "others"}
    (probing / "result.json").write_text(json.dumps(result))
    (stopped,) = results.glob("cnn/flm_vp/stopped")
    content = read_json(stopped / "test_predictions.json")
    (stopped / "test_predictions.json").write_text(json.dumps(content | {"class_names": ["a", "b", "c", "d"]}))
    found = page("--network", "tiny").text
    assert "test_predictions.json cannot be used: it has numbers of classes outside of 0 to 0." in found
    assert "ILM-VP" in found and ": 2 runs without test_predictions.json." in found
    assert ": 1 run on other test images." in found
    assert ": 1 run whose test_predictions.json has other labels." in found


def test_without_the_images_their_numbers_are_shown(page, results, monkeypatch, tmp_path):
    monkeypatch.setattr(cfg, "data_path", tmp_path)
    found = page("--network", "tiny").text
    assert "The pictures of the test images are missing" in found and re.search(r"number \d", found)


# Curves -------------------------------------------------------------------------------------------------------------


def line(*logs: list[dict], trained: bool = True) -> Line:
    return Line("cnn/ilm_vp", "ILM-VP", "#0072B2", "o", "-", list(logs), trained)


def records(**columns: list) -> list[dict]:
    values = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [{"epoch": number, **own} for number, own in enumerate(values, 1)]


def test_a_curve_is_the_mean_over_the_seeds(page):
    found = line(records(test_acc=[0.5, 0.7]), records(test_acc=[0.6, 0.9, 0.95]))
    assert found.values("test_acc", 100) == {1: [50, 60], 2: [70, 90], 3: [95]}
    ((title, svg, text),) = panels([found], "x")
    assert (title, text) == ("Accuracy, %", "Accuracy, %, by epoch; first to last: ILM-VP 55 to 95.")
    assert svg.count('<g data-method="cnn/ilm_vp">') == 2  # the line and its band; training logged nothing


def test_what_is_no_number_is_passed_over():
    values = [0.5, None, "0.7", float("nan"), float("-inf"), 10**400, True, [1], 0.9]
    found = line(records(test_acc=values))
    assert found.values("test_acc", 1) == {1: [0.5], 9: [0.9]}
    assert len(panels([found], "x")) == 1


def test_which_panels_there_are():
    values = {"test_acc": [0.1, 0.2], "test_loss": [2, 1], "remapped": [1, 0.5], "mapping_precision": [0.3, 0.4]}
    titles = [panel.title for panel in PANELS]
    assert [title for title, *_ in panels([line(records(**values, calls=[60, 120]))], "x")] == titles
    titles, logs = titles[:-1], records(**values)  # no black box
    assert [title for title, *_ in panels([line(logs)], "x")] == titles
    older = [{key: value for key, value in record.items() if key != "mapping_precision"} for record in logs]
    assert [title for title, *_ in panels([line(older)], "x")] == titles[:3]
    once = [older[0], {"epoch": 2, "test_acc": 0.2, "test_loss": 1}]  # a map that is made once, as FLM's
    assert [title for title, *_ in panels([line(once)], "x")] == titles[:2]
    zero_shot = line(records(test_acc=[0.3], test_loss=[1]), trained=False)
    assert panels([zero_shot], "x") == []
    (_, _, text), *_ = panels([zero_shot, line(once)], "x")
    assert text.endswith("first to last: ILM-VP 30; ILM-VP 10 to 20.")


def test_accuracy_against_what_a_black_box_was_asked():
    """Each seed's accuracy stands where its questions are; a network with gradients has no such curve."""
    boxes = line(records(test_acc=[0.1, 0.3], calls=[60, 120]), records(test_acc=[0.2, 0.5], calls=[60, 130]))
    assert boxes.values("test_acc", 100, "calls") == {60: [10, 20], 120: [30], 130: [50]}
    *_, (title, svg, text) = panels([line(records(test_acc=[0.9, 0.8])), boxes], "x")
    assert title == "Accuracy, %, against questions of training" and ">calls</text>" in svg
    assert text == f"{title}, by calls; first to last: ILM-VP 15 to 50."


def test_a_method_looks_the_same_everywhere():
    columns = [Column(method) for method in METHODS] + [Column("cnn/mine"), Column("cnn/evp", ("lr 2",))]
    looks = style(columns)
    evp, other = looks[Column("cnn/evp")], looks[Column("cnn/evp", ("lr 2",))]
    assert {key for key in evp if evp[key] != other[key]} == {"dash"}
    together = {"cnn": "rlm_vp flm_vp ilm_vp", "clip": "zero_shot vp single_tp_vp ilm_tp_vp"}
    for folder, names in together.items():
        columns = [Column(f"{folder}/{name}") for name in (*names.split(), "evp", "linear_probing", "full_finetune")]
        assert len({looks[column]["colour"] for column in columns}) == len(columns)
    alone = style([Column("clip/evp"), Column("cnn/mine")])
    assert alone == {column: looks[column] for column in alone}


# The page in a browser ----------------------------------------------------------------------------------------------

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"  # Debian's packages chromium and chromium-driver
QUIET = "headless=new no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update"
needs_chromium = pytest.mark.skipif(
    not (Path(CHROMIUM).exists() and Path(DRIVER).exists()), reason="chromium and chromium-driver are not installed"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*QUIET.split(), "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium, results, run_script, tmp_path_factory):
    """Chromium with the page of `results` open, 1280 pixels wide; in the end, it must not have logged an error."""
    if "page" not in MADE:
        MADE["page"] = tmp_path_factory.mktemp("page") / "report.html"
        run_script("tools/report", "--output", MADE["page"])
    wide(chromium, 1280)
    chromium.get(MADE["page"].as_uri())
    yield chromium
    assert chromium.get_log("browser") == []


def wide(chromium, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def shown(browser, selector: str) -> list:
    return [element for element in browser.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]


def column(browser, table: str, number: int) -> list[str]:
    """The words of a table's column, row by row."""
    return [cell.text for cell in shown(browser, f"{table} tbody tr > :nth-child({number})")]


@needs_chromium
def test_it_renders_and_asks_for_nothing(browser):
    browser.get_log("performance")
    browser.refresh()
    browser.execute_script("for (const image of document.images) image.loading = 'eager'")
    decoded = "return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    images = browser.find_elements(By.TAG_NAME, "img")
    widths = [str(width) for width in browser.execute_script(decoded)]
    assert widths == [image.get_dom_attribute("width") for image in images]
    assert len(shown(browser, "figure svg")) == len(shown(browser, "figure div[role=img]")) > 8
    assert browser.execute_script("return window.broken") is None
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:image/")} == {MADE["page"].as_uri()}


@needs_chromium
@pytest.mark.parametrize(
    ("key", "value", "runs", "tables"),
    [("method", "cnn/ilm_vp", 3, 1), ("network", "tiny", 7, 1), ("dataset", EVIL, 1, 1), ("dataset", "small", 8, 2)],
)
def test_filters_hide_runs_rows_and_figures(key, value, runs, tables, browser):
    everything = len(shown(browser, "[data-leaf]"))
    chosen = Select(browser.find_element(By.CSS_SELECTOR, f"select[data-filter={key}]"))
    chosen.select_by_value(value)
    assert len(shown(browser, "details.run")) == len(shown(browser, "table.runs tbody tr")) == runs
    assert browser.find_element(By.ID, "count").text == f"{runs} of 9 runs"
    assert len(shown(browser, "table.results")) == tables
    parts = shown(browser, f".results [data-{key}], .legend [data-{key}], .figures svg [data-{key}], .run[data-{key}]")
    assert parts and {part.get_attribute(f"data-{key}") for part in parts} == {value}
    assert shown(browser, ".figures svg")
    chosen.select_by_value("")
    assert len(shown(browser, "[data-leaf]")) == everything


@needs_chromium
def test_filters_work_together_and_with_words(browser):
    Select(browser.find_element(By.CSS_SELECTOR, "select[data-filter=method]")).select_by_value("cnn/flm_vp")
    search = browser.find_element(By.ID, "search")
    search.send_keys("INTERRUPTED")
    (run,) = shown(browser, "details.run")
    assert "seed 9" in run.text
    assert len(shown(browser, "table.runs tbody tr")) == 1
    search.send_keys(Keys.BACKSPACE * 20, "seed 10")
    (run,) = shown(browser, "details.run")
    assert "no result yet" in run.text
    Select(browser.find_element(By.CSS_SELECTOR, "select[data-filter=network]")).select_by_index(2)  # the CLIP
    assert browser.find_element(By.ID, "count").text == "0 of 9 runs"
    assert not shown(browser, "details.run, table.results, .figures")


@needs_chromium
def test_tables_are_sorted_by_mouse_and_keyboard(browser):
    heads = shown(browser, "table.runs thead th")
    seeds = column(browser, "table.runs", 5)
    heads[4].find_element(By.TAG_NAME, "button").click()
    assert column(browser, "table.runs", 5) == sorted(seeds, key=int) != sorted(seeds)
    assert heads[4].get_attribute("aria-sort") == "ascending"
    heads[4].find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert column(browser, "table.runs", 5) == sorted(seeds, key=int, reverse=True)
    assert heads[4].get_attribute("aria-sort") == "descending"
    heads[0].find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert column(browser, "table.runs", 1) == sorted(column(browser, "table.runs", 1))
    assert [head.get_attribute("aria-sort") for head in heads[:5]] == ["ascending", *[None] * 4]
    assert not shown(browser, ".results [aria-sort]")  # each table has its own order


@needs_chromium
def test_what_is_empty_comes_last_either_way(browser):
    head = shown(browser, "table.results thead th[data-method='cnn/linear_probing'] button")[0]
    rows = "#tables section:has([data-method='cnn/linear_probing']) table"
    for words in ("ascending", "descending"):
        head.click()
        assert column(browser, rows, 1) == ["small", EVIL], words


@needs_chromium
def test_without_javascript_everything_is_there_but_the_controls(browser):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.refresh()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert not shown(browser, "#controls, th button")
    assert len(shown(browser, "details.run")) == len(shown(browser, "table.runs tbody tr")) == 9
    assert len(shown(browser, "table.results")) == 2 and len(shown(browser, ".figures svg")) > 4
    run = shown(browser, "details.run")[0]
    assert not run.find_element(By.TAG_NAME, "pre").is_displayed()
    run.find_element(By.TAG_NAME, "summary").click()
    assert run.find_element(By.TAG_NAME, "pre").is_displayed()


@needs_chromium
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_no_wider_than_the_screen(width, browser):
    wide(browser, width)
    browser.find_element(By.CSS_SELECTOR, "[data-open=true]").click()
    for details in browser.find_elements(By.TAG_NAME, "details"):
        browser.execute_script("arguments[0].open = true", details)
    widths = browser.execute_script("const d = document.documentElement; return [d.scrollWidth, d.clientWidth]")
    assert widths[0] <= widths[1] <= width
    browser.find_element(By.CSS_SELECTOR, "[data-open=false]").click()
    assert not shown(browser, "details.run pre")


@needs_chromium
def test_it_prints(browser):
    def pages() -> int:
        pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
        assert pdf.startswith(b"%PDF")
        return len(re.findall(rb"/Type\s*/Page\b", pdf))

    closed = pages()
    browser.find_element(By.CSS_SELECTOR, "[data-open=true]").click()
    assert 2 <= closed < pages() <= 40
