"""``missile client``, ``models --url`` and ``bench`` against a real server with the zoo's nets."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import missile_jax.models as zoo
from missile_jax import ConfigError, InvalidInputError, Model, serve
from missile_jax.cli import app
from missile_jax.client import Client, address
from missile_jax.errors import ServerError


@pytest.fixture(scope="module")
def url():
    photos, texts = zoo.load("squeezenet"), zoo.load("minilm")
    models = [
        Model("photos", photos.module, photos.variables, example=photos.example),
        Model("minilm", texts.module, texts.variables, example=texts.example),
        Model("half", lambda _, x: x / 2, (), example=np.zeros((1, 3), np.float32)),
    ]
    with serve(models, http_port=0, block=False) as serving:
        yield serving.url


def missile(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def coffee(tmp_path):
    from PIL import Image

    path = tmp_path / "coffee.png"
    Image.fromarray(zoo.photos()["coffee"]).save(path)
    return str(path)


def test_a_photo_is_answered_in_words(url, coffee):
    shown = missile("client", "photos", coffee, "--zoo", "squeezenet", "--url", url).splitlines()
    assert shown[0] == coffee
    assert shown[1].endswith("  espresso")
    assert len(shown) == 6


def test_two_texts_are_compared(url, tmp_path):
    (tmp_path / "b").write_text("A kitten naps on the couch.\n")
    texts = ["A cat is sleeping on the sofa.", f"@{tmp_path / 'b'}", "Shares fell on Friday."]
    shown = missile("client", "minilm", *texts, "--url", url, "--json").splitlines()
    answers = [json.loads(line) for line in shown]
    assert answers[0]["outputs"]["output"]["shape"] == [1, 384]
    (close,), far = answers[1]["similarity"], answers[2]["similarity"]
    assert close > 0.5 > max(far)


def test_arrays_go_as_they_are(url, tmp_path):
    np.save(tmp_path / "x.npy", np.array([[2, 4, 6]], np.float32))
    np.savez(tmp_path / "x.npz", input=np.zeros((1, 3), np.float32))
    files = [str(tmp_path / name) for name in ("x.npy", "x.npz")]
    first, second = missile("client", "half", *files, "--url", url, "--json").splitlines()
    assert json.loads(first)["outputs"]["output"] == {
        "shape": [1, 3], "dtype": "float32", "min": 1, "mean": 2, "max": 3,
    }  # fmt: skip
    assert json.loads(second)["outputs"]["output"]["max"] == 0


def test_models_of_a_server_are_listed_with_their_tensors(url):
    shown = missile("models", "--url", url)
    assert "photos" in shown
    assert "best_effort" in shown
    assert "FP32 [-1,3]" in shown


def test_bench_counts_what_it_sends(url, tmp_path):
    file = tmp_path / "figures.json"
    arguments = ["--rate", "100", "--seconds", "0.5", "--concurrency", "4", "--json", str(file)]
    shown = missile("bench", url, "half", *arguments)
    figures = json.loads(file.read_text())
    assert figures["answered"] == 50
    assert figures["errors"] == {}
    assert figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert "50 answered" in shown
    assert shown.count("#") > 0


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["half", "no.npy"], ConfigError, "no.npy cannot be read"),
        (["half", "hello"], ConfigError, "'half' is no network of the zoo; say with --zoo"),
        (["nothing", "hello"], ServerError, "404: no model named 'nothing'"),
        (["photos", "hello", "--zoo", "squeezenet"], InvalidInputError, "an image"),
        (["minilm", "PHOTO"], InvalidInputError, "a sentence"),
    ],
)
def test_what_cannot_be_sent_is_explained(url, coffee, arguments, error, says):
    arguments = [coffee if a == "PHOTO" else a for a in arguments]
    with pytest.raises(error, match=says):
        missile("client", *arguments, "--url", url)


def test_no_server_is_an_error():
    with pytest.raises(ServerError, match="no answer from"), Client("http://127.0.0.1:1") as client:
        client.models()


@pytest.mark.parametrize(
    "url", ["localhost:8000", "grpc://a", "http://", "http://a:b", "http://a/b"]
)
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="must be http://HOST"):
        address(url)
