"""A network behind HTTP: what is sent, what is kept, how it waits, what it refuses, and where the key is not."""

import json
import os
import re
import socket
import sqlite3
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread, Timer
from urllib.error import URLError

import pytest
import torch
from http_server import Server
from tiny import ROOT, TINY

import cfg
from algorithms import priming
from algorithms.training import train_one_epoch
from algorithms.zeroth_order import SPSA_GC
from errors import UserError
from models import http_endpoint
from models.answers import Answers
from models.black_box import BlackBox
from models.http_endpoint import NoAnswer
from models.http_service import HttpService, png_of
from models.networks import CPU, load_network
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.visual_prompt import ExpansiveVisualPrompt

KEY = "s3cret-Key_0815"
PROBABILITIES = {"class_names": ["a", "b"], "input_size": 4, "scores": "probabilities"}


def of_brightness(images: torch.Tensor) -> torch.Tensor:
    """Two probabilities that tell how bright an image is."""
    bright = images.mean((1, 2, 3))
    return torch.stack([bright, 1 - bright], 1)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """No proxy between test and server; short waits."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("VP_SERVICE_KEY", raising=False)
    monkeypatch.setattr(http_endpoint, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(cfg, "service_rate", "")


@pytest.fixture
def serve():
    servers = []

    def start(answer=of_brightness, description=PROBABILITIES) -> Server:
        servers.append(Server(answer, description))
        return servers[-1]

    yield start
    for server in servers:
        server._http.shutdown()
        server._http.server_close()


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    """The seconds that an endpoint would have slept."""
    seconds: list[float] = []
    monkeypatch.setattr(http_endpoint, "FIRST_WAIT", 1.0)
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def images(number: int) -> torch.Tensor:
    return torch.linspace(0.1, 0.9, number).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()


# What it answers ------------------------------------------------------------------------------------------------------


def test_probabilities_become_logarithms_and_a_zero_is_finite(serve):
    service = HttpService(serve().address)
    scores = service(torch.stack([torch.full((3, 4, 4), 0.2), torch.zeros(3, 4, 4)]))
    torch.testing.assert_close(scores.exp(), torch.tensor([[0.2, 0.8], [0.0, 1.0]]), atol=1e-6, rtol=0)  # 51 of 255
    assert scores.isfinite().all() and not scores.requires_grad
    assert (service.class_names, service.input_size) == (("a", "b"), 4)


def test_logits_of_a_network_come_back_as_they_are(serve):
    network = load_network("tiny")
    told = {"class_names": network.class_names, "input_size": 64, "scores": "logits"}
    service = load_network(serve(network, told).address)
    pixels = torch.randint(256, (2, 3, 64, 64)) / 255
    torch.testing.assert_close(service(pixels), network(pixels), atol=1e-5, rtol=1e-5)
    assert service.questions.images == 2


def test_an_image_is_sent_as_png_of_eight_bits():
    image = torch.tensor([0.0, 100 / 255, 200 / 255, 1.2]).view(1, 2, 2).expand(3, 2, 2)
    assert png_of(image) == png_of(image + 0.001)  # a difference below half of 1/255 is not seen
    assert png_of(image) != png_of(image - 0.004)
    assert png_of(image)[:8] == b"\x89PNG\r\n\x1a\n"


# Kept answers ---------------------------------------------------------------------------------------------------------


def test_no_image_is_asked_twice_not_even_by_another_run(serve):
    server = serve()
    first = HttpService(server.address)(images(5))
    assert torch.equal(HttpService(server.address)(images(5).flip(0)), first.flip(0))
    HttpService(server.address)(images(6))
    assert sorted(server.asked.values()) == [1] * 9  # of the six, two are among the five: 0.1 and 0.9


def test_another_version_of_the_service_is_asked_anew(serve):
    server = serve()
    HttpService(server.address)(images(2))
    server.description = PROBABILITIES | {"version": "2"}
    HttpService(server.address)(images(2))
    assert sorted(server.asked.values()) == [2, 2]


def test_several_runs_at_a_time_ask_each_image_once(serve):
    server = serve()
    services = [HttpService(server.address) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        scores = list(pool.map(lambda service: service(images(8)), services))
    assert sorted(server.asked.values()) == [1] * 8
    assert torch.equal(scores[0], scores[1]) and torch.equal(scores[0], scores[2])


def test_answers_are_found_in_the_order_of_the_keys(tmp_path):
    kept, asked = Answers(tmp_path / "new" / "a.sqlite", classes=2), []

    def ask(positions):
        asked.append(positions)
        return torch.tensor([[float(position), 0.5] for position in positions])

    assert kept.look_up(["x", "y", "x"], ask).tolist() == [[0.0, 0.5], [1.0, 0.5], [0.0, 0.5]]
    assert kept.look_up(["z", "y"], ask).tolist() == [[0.0, 0.5], [1.0, 0.5]]
    assert asked == [[0, 1], [0]]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: b"no database" * 200, "file is not a database"),
        (lambda content: content[: len(content) // 2], "malformed"),
        (lambda content: content.replace(b"CREATE TABLE", b"CREATE T\xffBLE"), "used: [^.]"),  # no UTF-8
    ],
)
def test_a_damaged_file_of_answers_is_a_mistake(damage, said, tmp_path):
    file = tmp_path / "a.sqlite"
    Answers(file, classes=2).keep({"x": torch.ones(2)})
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=said) as caught:
        Answers(file, classes=2).find(["x"])
    assert caught.value.asked.startswith(f"{file} keeps the answers") and "delete it" in caught.value.next_step


@pytest.mark.parametrize("damaged", [b"", b"\0" * 7, b"\0" * 12, "text", None])
def test_a_damaged_answer_is_asked_anew(damaged, serve):
    server = serve()
    first = HttpService(server.address)(images(2))
    (file,) = (cfg.results_path / "answers").glob("*.sqlite")
    with closing(sqlite3.connect(file)) as kept, kept:
        kept.execute("UPDATE answers SET scores = ? WHERE image = (SELECT min(image) FROM answers)", [damaged])
    for _ in range(2):
        assert torch.equal(HttpService(server.address)(images(2)), first)
    assert sorted(server.asked.values()) == [1, 2]


# Waiting --------------------------------------------------------------------------------------------------------------


def test_it_waits_longer_each_time_and_as_long_as_the_service_asks(serve, slept, capsys):
    server = serve()
    service = HttpService(server.address)
    server.failures = [(503, {"Retry-After": "7"}), (429, {}), (500, {"Retry-After": "soon"}), b'{"scores": [0.5,']
    service(images(2))
    assert [second for second in slept if second] == [7.0, 2.0, 4.0, 8.0]
    out = capsys.readouterr().out
    assert out.count("does not answer (HTTP 503 Service Unavailable). The run waits") == 1
    assert out.count("does not answer") == out.count("answers again") == 1
    assert sorted(server.asked.values()) == [1, 1]


def test_retry_after_may_be_a_date():
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=100), usegmt=True)
    assert 97 < http_endpoint._seconds(date) <= 100
    assert [http_endpoint._seconds(text) for text in (None, "", "12", "Thu, 01 Jan 1970 00:00:00 GMT")] == [0, 0, 12, 0]


@pytest.mark.parametrize("asked", ["9" * 20, "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_service_may_ask_to_wait_a_day_at_most(asked):
    assert http_endpoint._seconds(asked) == 86400


def test_the_wait_has_a_limit(monkeypatch, slept):
    endpoint = http_endpoint.Endpoint("http://127.0.0.1:1/")
    left = iter(range(9))

    def attempt():
        if next(left) < 8:
            raise NoAnswer("refused")
        return "answer"

    assert endpoint.insist(attempt) == "answer"
    assert slept == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_rate_is_kept(serve, slept, monkeypatch):
    monkeypatch.setattr(cfg, "service_rate", "0.5")
    HttpService(serve().address)(images(3))
    assert len(slept) == 3 and all(1.5 < seconds <= 2 for seconds in slept)


def test_a_rate_counts_requests_without_an_answer(serve, slept, monkeypatch):
    monkeypatch.setattr(cfg, "service_rate", "0.1")
    server = serve()
    server.failures = [(503, {})]
    service = HttpService(server.address)
    assert slept == [10]  # between the first GET and the second
    slept.clear()
    server.failures = [(503, {}), b'{"scores": [0.5,']
    for _ in range(2):  # no other process may ask meanwhile: `_ask` holds the lock
        with pytest.raises(NoAnswer):
            service._ask("key", png_of(images(1)[0]))
    assert len(slept) == 2 and all(9 < seconds <= 10 for seconds in slept)


def test_a_rate_that_is_none(serve, monkeypatch):
    monkeypatch.setattr(cfg, "service_rate", "fast")
    with pytest.raises(UserError, match="'fast'"):
        HttpService(serve().address)


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "HTTP 401 Unauthorized.\nThe environment variable VP_SERVICE_KEY is not set"),
        (403, "HTTP 403 Forbidden.\nThe environment variable VP_SERVICE_KEY is not set"),
        (404, "HTTP 404 Not Found.\nCorrect the address."),
        (302, "HTTP 302 Found.\nGive the address that it redirects to."),
        (418, "HTTP 418 "),
    ],
)
def test_a_service_that_says_no_for_good_is_a_mistake(status, said, serve, slept):
    server = serve()
    service = HttpService(server.address)
    server.failures = [(status, {"Location": "http://127.0.0.1:1/elsewhere"})]
    with pytest.raises(UserError) as caught:
        service(images(1))
    assert said in str(caught.value) and "what a proxy says" not in str(caught.value)
    assert not slept and not server.asked


@pytest.mark.parametrize("address", ["http://a..b/", f"http://{'a' * 70}.example/", "http://127.0.0.1:1/\xe4"])
def test_an_address_that_no_machine_can_have_is_a_mistake(address):
    with pytest.raises(UserError, match="Correct the address"):
        http_endpoint.Endpoint(address).request()


@pytest.fixture
def unknown(monkeypatch) -> set[str]:
    """Hosts that no name server knows."""
    names, find = {"misspelt.example"}, socket.getaddrinfo

    def getaddrinfo(host, *more, **options):
        if host in names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return find(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


def test_a_misspelt_host_is_not_waited_for(unknown, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    with pytest.raises(UserError, match=r"misspelt\.example is not found: Name or service not known") as caught:
        HttpService("http://misspelt.example/")
    assert "Correct the address" in caught.value.next_step


def test_a_host_that_is_not_found_any_more_is_waited_for(serve, unknown, slept, monkeypatch, capsys):
    service = HttpService(serve().address)
    unknown.add("127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda seconds: slept.append(seconds) or (seconds and unknown.clear()))
    assert service(images(1)).shape == (1, 2)
    assert slept == [0, 1, 0]
    assert "does not answer (Name or service not known). The run waits" in capsys.readouterr().out


def test_a_certificate_that_is_not_trusted_is_a_mistake(slept):
    endpoint = http_endpoint.Endpoint("https://127.0.0.1:1/")

    def untrusted(*_, **__):
        raise URLError(ssl.SSLCertVerificationError(1, "certificate verify failed"))

    endpoint._open = untrusted
    with pytest.raises(UserError, match="certificate verify failed"):
        endpoint.insist(endpoint.request)
    assert not slept


def test_an_answer_that_is_too_large_or_too_deep_is_a_mistake(serve, slept, monkeypatch):
    with pytest.raises(UserError, match="no JSON"):
        HttpService(serve(description=b"[" * 100_000).address)
    monkeypatch.setattr(http_endpoint, "LARGEST", 16)
    with pytest.raises(UserError, match="16 bytes or more"):
        HttpService(serve().address)
    assert not slept


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ([], "no list `class_names`"),
        ({"class_names": ["a", 1]}, "no list `class_names`"),
        (PROBABILITIES | {"input_size": "224"}, "no `input_size`"),
        (PROBABILITIES | {"scores": "labels"}, "probabilities or logits"),
    ],
)
def test_a_service_that_tells_too_little(description, said, serve):
    with pytest.raises(UserError, match=said):
        HttpService(serve(description=description).address)


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b'{"label": "a"}',
        b'{"scores": [0.5]}',
        b'{"scores": [0.5, NaN]}',
        b'{"scores": [0.5, 1e400]}',
        b'{"scores": [0.5, "0.5"]}',
        b'{"scores": [true, false]}',
        b'{"scores": [1, %s]}' % (b"9" * 400),
    ],
)
def test_an_answer_in_another_format_is_a_mistake_and_not_kept(answer, serve, monkeypatch):
    server = serve()
    service = HttpService(server.address)
    monkeypatch.setattr(service._endpoint, "_open", lambda *_, **__: _Answer(answer))
    with pytest.raises(UserError, match=r"as docs/black_box.md says"):
        service(images(1))
    monkeypatch.undo()
    assert service(images(1)).shape == (1, 2)


class _Answer:
    length = 0

    def __init__(self, content: bytes):
        self.content = content

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read(self, most: int) -> bytes:
        return self.content


def test_what_needs_more_than_scores_is_refused(serve, small, run_script):
    address = serve(
        load_network("tiny"), {"class_names": TINY.class_names, "input_size": 64, "scores": "logits"}
    ).address
    with pytest.raises(UserError, match="class scores alone"):
        load_network(address, CPU, num_classes=0)
    with pytest.raises(UserError, match="HttpService only answers"):
        run_script("experiments/cnn/rlm_vp", "--network", address, "--dataset", "small", "--epoch", 1)


# The key --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "secret",
    ["user:PASS@host/", "host/path?key=PASS", "host/#PASS", "host:PASS/", "", "ho st/PASS", "h:65536/", "h/\xe4"],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(secret, run_script):
    with pytest.raises(UserError, match="VP_SERVICE_KEY") as caught:
        run_script("experiments/cnn/ares", "--service", f"https://{secret}", "--network", "tiny", "--dataset", "small")
    assert "PASS" not in str(caught.value)


def test_a_key_that_no_header_can_hold_is_not_shown(serve, monkeypatch):
    monkeypatch.setenv("VP_SERVICE_KEY", f"{KEY}\r\nX: y")
    with pytest.raises(UserError, match="VP_SERVICE_KEY") as caught:
        HttpService(serve().address)
    assert KEY not in str(caught.value)


def test_a_redirection_gets_no_key(serve, monkeypatch):
    monkeypatch.setenv("VP_SERVICE_KEY", KEY)
    server, other = serve(), serve()
    server.failures = [(307, {"Location": other.address})]
    with pytest.raises(UserError, match="HTTP 307"):
        HttpService(server.address)
    assert not other.headers


def test_a_proxy_gets_no_key_in_plain_text(serve, unknown, monkeypatch):
    proxy = serve()
    monkeypatch.setenv("http_proxy", proxy.address)
    assert HttpService("http://misspelt.example/").class_names == ("a", "b")  # the proxy answers for it
    monkeypatch.setenv("VP_SERVICE_KEY", KEY)
    with pytest.raises(UserError, match="the proxy is not asked, as it could read the key"):
        HttpService("http://misspelt.example/")
    assert [headers["Host"] for headers in proxy.headers] == ["misspelt.example"]


def test_a_proxy_sees_of_https_no_more_than_the_host(unknown, monkeypatch):
    sent = []

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self):
            sent.append((self.path, dict(self.headers)))
            self.send_error(502)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        Thread(target=proxy.handle_request, daemon=True).start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv("VP_SERVICE_KEY", KEY)
        with pytest.raises(NoAnswer):
            http_endpoint.Endpoint("https://misspelt.example/path").request()
    ((host, headers),) = sent
    assert host == "misspelt.example:443" and KEY not in str(headers) and "path" not in str(headers)


def test_this_machine_is_asked_without_a_proxy(serve, monkeypatch):
    server, proxy = serve(), serve()
    monkeypatch.setenv("http_proxy", proxy.address)
    HttpService(server.address)
    assert (len(server.headers), len(proxy.headers)) == (1, 0)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "127.3.2.1", "[::1]", "[::1]:8000"])
def test_addresses_of_this_machine(host):
    assert http_endpoint._is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.example", "10.0.0.1:8000", "127.0.0.1.example", "[::2]:1", ""])
def test_addresses_of_other_machines(host):
    assert not http_endpoint._is_loopback(host)


# Runs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ares(serve, small, run_script):
    """The service and a function that runs AReS with it: 24 training images, 4 classes."""
    network = load_network("tiny")
    told = {"class_names": TINY.class_names[:20], "input_size": 64, "scores": "probabilities"}
    server = serve(lambda x: network(x)[:, :20].softmax(1), told)
    words = ("--service", server.address, "--network", "tiny", "--dataset", "small", "--batch-size", 8)
    return server, lambda *more: run_script("experiments/cnn/ares", *words, "--priming-epoch", 2, "--epoch", 2, *more)


def test_a_service_that_stops_in_the_middle_of_a_run_is_waited_for(ares, capsys):
    server, run = ares
    server.stop_after = 10
    server.on_stop = lambda: Timer(0.3, server.start).start()
    result = run()
    assert (result["status"], result["images_asked"], len(server.asked)) == ("finished", 24, 24)
    assert set(server.asked.values()) == {1}
    out = capsys.readouterr().out
    assert re.search(r"classify does not answer \(Connection (refused|reset by peer)\)\. The run waits for it", out)
    assert out.count("does not answer") == 1
    assert out.count("answers again, after ") == 1


def test_a_run_that_is_killed_while_it_asks_goes_on_without_asking_twice(ares, monkeypatch):
    server, run = ares
    keep = Answers.keep

    def stop(self, answers):
        keep(self, answers)
        if len(server.asked) == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(Answers, "keep", stop)
    with pytest.raises(UserError, match="Interrupted"):
        run()
    monkeypatch.setattr(Answers, "keep", keep)
    assert len(server.asked) == 10
    assert run()["images_asked"] == 24
    assert (len(server.asked), set(server.asked.values())) == (24, {1})


def test_the_key_is_sent_and_written_nowhere(ares, monkeypatch, capsys):
    server, run = ares
    monkeypatch.setenv("VP_SERVICE_KEY", KEY)
    result = run()
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    files = [file for file in cfg.results_path.rglob("*") if file.is_file()]
    assert {"args.json", "result.json", "log.jsonl", "ckpt.pth", "best.pth"} <= {file.name for file in files}
    assert not [file for file in files if KEY.encode() in file.read_bytes()]
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err + json.dumps(result)
    server.failures = [(401, {})]
    with pytest.raises(UserError, match="VP_SERVICE_KEY is sent as the key") as caught:
        run("--seed", 8)
    assert KEY not in str(caught.value) and KEY in os.environ["VP_SERVICE_KEY"]


def test_the_documents_server_serves_a_network(monkeypatch):
    """The example of docs/black_box.md, as a user would start it."""
    text = (ROOT / "docs" / "black_box.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)
    started = []
    serve_forever = HTTPServer.serve_forever

    def serve_aside(server):
        started.append(server)
        Thread(target=serve_forever, args=(server, 0.01), daemon=True).start()

    monkeypatch.setattr(HTTPServer, "serve_forever", serve_aside)
    monkeypatch.setattr(BaseHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["my_service.py", "tiny", "0"])
    exec(compile(code, "my_service.py", "exec"), {"__name__": "__main__"})
    try:
        service = load_network(f"http://127.0.0.1:{started[0].server_address[1]}/")
        pixels = torch.randint(256, (2, 3, 64, 64)) / 255
        torch.testing.assert_close(service(pixels).exp(), load_network("tiny")(pixels).softmax(1), atol=1e-5, rtol=0)
    finally:
        started[0].shutdown()
        started[0].server_close()


def test_a_service_may_be_what_a_checkpoint_holds(serve, small, run_script, monkeypatch):
    """AReS-MS chose it: evaluate.py and predict.py ask it again, but about no image that it has answered."""
    network = load_network("tiny")
    told = {"class_names": ["Doe", "cow", "bee", "ant"], "input_size": 64, "scores": "logits"}
    server = serve(lambda x: network(x)[:, :4], told)
    accuracies = {"primed_acc": {"acc": 0.1}, "service_acc": {"acc": 0.2}}
    monkeypatch.setattr(priming, "evaluate", lambda model, images, description, **_: accuracies[description])
    words = ("--service", server.address, "--network", "tiny", "--dataset", "small", "--priming-epoch", 1)
    result = run_script("experiments/cnn/ares", *words, "--fallback")
    assert (result["answered_by"], len(server.asked)) == ("service", 24 + 20)
    (saved,) = cfg.results_path.rglob("best.pth")
    assert run_script("tools/evaluate", "--checkpoint", saved)["acc"] == result["test_acc_last"]
    assert (len(server.asked), set(server.asked.values())) == (24 + 20, {1})


def test_a_prompt_is_learned_through_a_service(serve):
    """SPSA on the tiny network behind HTTP goes where it goes on the network itself, but for 8 bits."""
    network = load_network("tiny")
    told = {"class_names": network.class_names, "input_size": 64, "scores": "logits"}
    images, labels = torch.randint(256, (4, 3, 32, 32)) / 255, torch.arange(4)
    losses = []
    for behind in (network, load_network(serve(network, told).address)):
        torch.manual_seed(0)
        model = Prompted(ExpansiveVisualPrompt(32, 64), BlackBox(behind, calls=100), SelectLabels(4))
        model.mapping.set(torch.arange(4))
        optimizer = SPSA_GC(model.prompt.parameters())
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        losses.append([train_one_epoch(model, [(images, labels)], optimizer, scaler)["loss"] for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert model.network.questions.calls == 30 and not model.network.questions.spent
