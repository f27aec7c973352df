"""``bertsurgeon compress`` and the upload of what it wrote."""

import json
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

from bertsurgeon.cli.compress import command_line
from bertsurgeon.compression import report as report_module
from bertsurgeon.errors import HubError, OptionError
from bertsurgeon.workflows import hub
from cli_helpers import run, write_data

FAST = ["--to", "pytorch", "--length", "16", "--max-candidates", "2", "--no-recover"]


@pytest.fixture(autouse=True)
def no_process_for_memory(monkeypatch):
    monkeypatch.setattr(report_module, "measure_memory", lambda *arguments: 1)


def files(folder):
    return ["--train-file", folder / "train.csv", "--validation-file", folder / "validation.csv"]


def test_one_command_writes_a_deployed_folder(folder, tmp_path):
    output = tmp_path / "deployed"
    arguments = ["compress", folder / "dense", *files(folder), *FAST, "--max-drop", 60, "-o", output]
    write_data(folder / "test.csv", 24, seed=3)
    result = run(*arguments, "--test-file", folder / "test.csv")
    assert result.exit_code == 0, result.output
    report = json.loads((output / "report.json").read_text())
    assert report["verdict"]["sentence"] in result.output
    assert report["confirmation"]["texts"] == 24
    assert {file["name"] for file in report["data"]["files"]} == {"train.csv", "validation.csv", "test.csv"}
    assert all(len(file["sha256"]) == 64 for file in report["data"]["files"])
    # nothing that is written names a folder of the user
    written = "".join((output / name).read_text() for name in ("report.json", "report.html", "README.md"))
    assert str(folder) not in written
    assert str(tmp_path) not in written
    assert "base_model: " not in (output / "README.md").read_text()  # a folder is no model on the Hub
    repeated = run(*arguments)
    assert repeated.exit_code == 2
    assert "--overwrite" in repeated.output
    page = run("report", output)
    assert page.exit_code == 0, page.output


def test_texts_alone(folder, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"the film number {number} was lovely\n" for number in range(40)), encoding="utf-8")
    result = run("compress", folder / "dense", "--text-file", texts, *FAST, "-o", tmp_path / "o", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["task"] is None
    assert report["bound"]["value"] == pytest.approx(1.0)
    assert report["data"]["search"] == 20


def test_dry_run_writes_nothing(folder, tmp_path):
    result = run("compress", folder / "dense", *files(folder), "--dry-run", "-o", tmp_path / "o", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    weights = [row["encoder_weights"] for row in plan["candidates"]]
    assert weights == sorted(weights, reverse=True)
    assert len(set(weights)) > 3
    assert not list(tmp_path.iterdir())
    printed = run("compress", folder / "dense", *files(folder), "--dry-run", "-o", tmp_path / "o")
    assert max(map(len, printed.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "compress needs data"),
        (["--task", "sst2", "--test-file", "x.csv"], "--test-file is for your own files"),
        (["--text-file", "texts.txt", "--test-file", "missing.txt"], "no file missing.txt"),
        (["--task", "sst2", "--max-drop", "1", "--min-agreement", "99"], "Name one bound"),
        (["--task", "sst2", "--precision", "int8", "--to", "pytorch"], "pytorch runs in fp32"),
        (["--task", "sst2", "--push-to-hub", "no name"], "no name of a repository"),
        (["--task", "sst2", "--push-to-hub", "model"], "names no owner"),
    ],
)
def test_bad_input_is_one_sentence(folder, tmp_path, arguments, message):
    result = run("compress", folder / "dense", *arguments, "-o", tmp_path / "o")
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


def test_the_command_line_names_no_folder(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "compress", "/home/jane/my model", "-o", "out"])
    assert command_line() == "bertsurgeon compress 'my model' -o out"
    arguments = ["--train-file=/home/jane/a/train.csv", "-o/home/jane/out/", "data/b.csv", "~/c.csv", "--max-drop=0.5"]
    monkeypatch.setattr("sys.argv", ["x", *arguments])
    assert command_line() == "bertsurgeon --train-file=train.csv -oout/ data/b.csv c.csv --max-drop=0.5"


class Api:
    """A Hub with one repository of another user."""

    def __init__(self, error=None):
        self.error = error
        self.created, self.uploads = [], []

    def whoami(self):
        if self.error is not None:
            raise self.error
        return {"name": "jane", "orgs": [{"name": "lab", "roleInOrg": "write"}, {"name": "club", "roleInOrg": "read"}]}

    def repo_info(self, repo_id):
        if repo_id.startswith(("jane", "lab", "club/new")):
            raise RepositoryNotFoundError("no", response=response(404))

    def create_repo(self, repo_id, **options):
        if repo_id.startswith("club"):
            raise HfHubHTTPError("no", response=response(403))
        self.created.append((repo_id, options["private"]))

    def upload_folder(self, **options):
        self.uploads.append(options)
        return SimpleNamespace(pr_url="pr" if options["create_pr"] else None, commit_url="commit")


def response(status):
    return SimpleNamespace(status_code=status, headers={}, request=None)


def test_upload_to_ones_own_repository_and_as_a_pull_request(tmp_path):
    api = Api()
    assert hub.push_folder(tmp_path, "jane/model", private=True, api=api) == "commit"
    assert hub.push_folder(tmp_path, "lab/model", api=api) == "commit"
    assert hub.push_folder(tmp_path, "other/model", api=api) == "pr"
    assert hub.push_folder(tmp_path, "club/model", api=api) == "pr"  # may read only
    assert api.created == [("jane/model", True), ("lab/model", False)]
    assert all("bertsurgeon_folder.json" in each["ignore_patterns"] for each in api.uploads)


def test_errors_of_the_hub_are_one_sentence(tmp_path):
    with pytest.raises(HubError, match="hf auth login"):
        hub.check_upload("jane/model", Api(LocalTokenNotFoundError("no token")))
    with pytest.raises(HubError, match=r"may not write there\. The folder itself is complete"):
        hub.push_folder(tmp_path, "club/new", api=Api())
    with pytest.raises(HubError, match=r"does not accept the login: no route\.$"):
        hub.check_upload("jane/model", Api(OSError("no route\nmore")))
    with pytest.raises(OptionError, match="USER/NAME"):
        hub.check_upload("a/b/c", Api())
