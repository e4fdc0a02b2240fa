"""The command line: what it writes, and that bad input writes nothing."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from monai_hyper.cli import main
from monai_hyper.data.phantom import write_phantom


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("phantom"), "head_mr", cases=2)


@pytest.fixture
def support(tmp_path):
    """Two pairs of 32 x 34 x 33 voxels with the values 1 and 5."""
    for index in range(2):
        label = np.zeros((32, 34, 33), np.uint8)
        label[8 + index : 20, 10:22, 8:20], label[22:29, 20:30, 20:30] = 1, 5
        image = label * 40 + np.random.default_rng(index).normal(100, 5, label.shape)
        for part, array in (("images", image.astype(np.float32)), ("labels", label)):
            (tmp_path / "support" / part).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([1.5, 1, 1, 1])), tmp_path / "support" / part / f"{index}.nii.gz")
    return tmp_path / "support"


def run_segment(support, query, output, *more):
    quick = [] if "--polish-seconds" in more else ["--polish-seconds", "0"]
    return main(["segment", "--support", str(support), "--query", str(query), "--output", str(output), *quick, *more])


def test_segment_writes_labels_picture_and_report(support, tmp_path, capsys):
    query, output = support / "images" / "0.nii.gz", tmp_path / "out"
    assert run_segment(support, query, output, "--json") == 0
    reports = json.loads(capsys.readouterr().out)
    label = nib.load(output / "0.nii.gz")
    assert label.shape == (32, 34, 33) and np.allclose(label.affine, nib.load(query).affine)
    assert set(np.unique(label.dataobj)) <= {0, 1, 5}
    voxels = int((np.asarray(label.dataobj) == 5).sum())
    assert reports[0]["volumes_ml"]["class_5"] == pytest.approx(voxels * 1.5 / 1000, abs=1e-3)
    assert json.loads((output / "0.json").read_text(encoding="utf-8")) == reports[0]
    assert (output / "0.png").stat().st_size > 1000


def test_segment_polishes_and_tells_what_to_expect(support, tmp_path, capsys):
    query = support / "images" / "0.nii.gz"
    assert run_segment(support, query, tmp_path / "out", "--json", "--polish-seconds", "0.5") == 0
    expected = json.loads(capsys.readouterr().out)[0]["expected_dice"]
    assert 0 <= expected["this_volume"] <= 1 and set(expected) == {"generated", "this_volume"}
    for seconds in ("-1", "nan", "inf"):
        assert run_segment(support, query, tmp_path / "not", "--polish-seconds", seconds) == 2
        assert "--polish-seconds" in capsys.readouterr().err and not (tmp_path / "not").exists()


def test_segment_polishes_by_default_as_the_number_of_examples_says(support, tmp_path, monkeypatch):
    monkeypatch.setattr("monai_hyper.commands.common.default_seconds", lambda device, shots: shots / 8)
    query, output = support / "images" / "0.nii.gz", tmp_path / "out"
    assert main(["segment", "--support", str(support), "--query", str(query), "--output", str(output)]) == 0
    shots = len(list((support / "images").iterdir()))
    assert json.loads((output / "0.json").read_text(encoding="utf-8"))["polish_seconds"] == shots / 8


def test_segment_refuses_to_overwrite(support, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    (output / "0.nii.gz").write_text("mine")
    assert run_segment(support, support / "images", output) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (output / "0.nii.gz").read_text(encoding="utf-8") == "mine" and len(list(output.iterdir())) == 1
    assert run_segment(support, support / "images", output, "--overwrite") == 0
    assert (output / "0.nii.gz").read_bytes() != b"mine"


def test_all_queries_or_none(support, tmp_path, capsys):
    queries = tmp_path / "queries"
    queries.mkdir()
    good = nib.load(support / "images" / "0.nii.gz")
    nib.save(good, queries / "a.nii.gz")
    broken = np.asarray(good.dataobj).copy()
    broken[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(broken, good.affine), queries / "b.nii.gz")
    assert run_segment(support, queries, tmp_path / "out") == 2
    assert "b.nii.gz" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["queries", "support"]


def spoil_no_pairs(support):
    for path in support.rglob("*.nii.gz"):
        path.unlink()


def spoil_missing_label(support):
    (support / "labels" / "0.nii.gz").unlink()


def spoil_missing_image(support):
    (support / "images" / "0.nii.gz").unlink()


def spoil_truncated(support):
    path = support / "images" / "0.nii.gz"
    path.write_bytes(path.read_bytes()[:5000])


def rewrite(path, change, affine=None):
    volume = nib.load(path)
    array = change(np.asarray(volume.dataobj).astype(np.float32))
    nib.save(nib.Nifti1Image(array, volume.affine if affine is None else affine), path)


def spoil_fractions(support):
    rewrite(support / "labels" / "0.nii.gz", lambda label: label * 0.5)


def spoil_shape(support):
    rewrite(support / "labels" / "0.nii.gz", lambda label: label[:-1])


def spoil_affine(support):
    rewrite(support / "labels" / "0.nii.gz", lambda label: label, np.diag([3.0, 1, 1, 1]))


def spoil_empty(support):
    for path in (support / "labels").iterdir():
        rewrite(path, lambda label: label * 0)


def spoil_nan(support):
    rewrite(support / "images" / "1.nii.gz", lambda image: image * np.inf)


def spoil_flat(support):
    rewrite(support / "images" / "1.nii.gz", lambda image: image[:, :, 0])


def spoil_time_series(support):
    rewrite(support / "images" / "1.nii.gz", lambda image: np.stack([image] * 3, -1))


@pytest.mark.parametrize(
    "spoil",
    [spoil_no_pairs, spoil_missing_label, spoil_missing_image, spoil_truncated, spoil_fractions, spoil_shape,
     spoil_affine, spoil_empty, spoil_nan, spoil_flat, spoil_time_series],
)  # fmt: skip
def test_bad_support_exits_with_2_and_writes_nothing(spoil, support, tmp_path, capsys):
    query = tmp_path / "query.nii.gz"
    nib.save(nib.load(support / "images" / "1.nii.gz"), query)
    spoil(support)
    assert run_segment(support, query, tmp_path / "out") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("monai-hyper: ") and str(support) in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["query.nii.gz", "support"]


def test_unknown_class_and_missing_query(support, tmp_path, capsys):
    query = support / "images" / "0.nii.gz"
    assert run_segment(support, query, tmp_path / "out", "--classes", "liver") == 2
    assert "class_1" in capsys.readouterr().err
    assert run_segment(support, tmp_path / "nothing.nii.gz", tmp_path / "out") == 2
    assert "nothing.nii.gz" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_more_than_sixteen_supports(support, tmp_path, capsys):
    for index in range(2, 18):
        for part in ("images", "labels"):
            nib.save(nib.load(support / part / "0.nii.gz"), support / part / f"{index}.nii.gz")
    assert run_segment(support, support / "images" / "0.nii.gz", tmp_path / "out") == 2
    assert "1 to 16" in capsys.readouterr().err


def test_other_modality_warns(support, tmp_path, capsys):
    query = tmp_path / "ct.nii.gz"
    rewrite_from = nib.load(support / "images" / "0.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(rewrite_from.dataobj) * 10 - 1900, rewrite_from.affine), query)
    assert run_segment(support, query, tmp_path / "out") == 0
    assert "looks like CT" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "ct.json").read_text(encoding="utf-8"))["warnings"]


@pytest.mark.parametrize("shape, spacing", [((20, 18, 16), 1.0), ((40, 40, 1), 10.0), ((40, 40, 6), 10.0)])
def test_unusual_queries_work(shape, spacing, support, tmp_path):
    query = tmp_path / "query.nii.gz"
    array = np.random.default_rng(0).integers(0, 4000, shape).astype(np.uint16)
    nib.save(nib.Nifti1Image(array, np.diag([1, 1, spacing, 1])), query)
    assert run_segment(support, query, tmp_path / "out", "--classes", "1") == 0
    assert nib.load(tmp_path / "out" / "query.nii.gz").shape == shape


EVALUATE = ["--shots", "1", "--draws", "1", "--queries", "1"]


def test_evaluate_writes_table_summary_and_report(phantom, tmp_path, capsys):
    output = tmp_path / "out"
    words = ["evaluate", "--dataset", str(phantom), "--output", str(output), *EVALUATE]
    assert main([*words, "--methods", "hyper,mean-mask"]) == 0
    lines = (output / "results.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("method,shots,draw,query,class,dice,nsd,hd95_mm,ece,brier") and len(lines) == 1 + 2 * 5
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["scores"]) == {"hyper", "mean-mask"}
    assert "<html" in (output / "report.html").read_text(encoding="utf-8")
    assert main([*words, "--methods", "mean-mask", "--seed", "1"]) == 2 and "seed" in capsys.readouterr().err
    assert main([*words, "--methods", "mean-mask", "--overwrite"]) == 0
    assert len((output / "results.csv").read_text(encoding="utf-8").splitlines()) == 1 + 5


def test_evaluate_goes_on_without_a_bad_case(phantom, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    for kind in ("images", "labels"):
        first = sorted((data / kind).iterdir())[0]
        shutil.copy(first, data / kind / "another.nii.gz")
    sorted((data / "images").iterdir())[-1].write_bytes(b"no volume")
    words = ["--dataset", str(data), "--output", str(tmp_path / "out"), "--methods", "mean-mask"]
    assert main(["evaluate", *words, *EVALUATE]) == 1
    assert "left out, the others are evaluated" in capsys.readouterr().err
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "hyper,magic"], "unknown method 'magic'"),
        (["--shift", "moon"], "unknown shift 'moon'"),
        (["--binary", "1+99"], "unknown class '99'"),
        (["--split", "select"], "unknown split 'select'"),
        (["--group", "age"], "participants.csv: not found"),
    ],
)
def test_evaluate_refuses_what_it_cannot_do(phantom, tmp_path, capsys, words, message):
    assert main(["evaluate", "--dataset", str(phantom), "--output", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_bench_times_methods(capsys):
    words = ["bench", "--methods", "mean-mask", "--shots", "1,2", "--side", "16", "--repeats", "2", "--json"]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["shots"] for row in rows] == [1, 2] and rows[0]["query_ratio"] == 1
    assert all(row["fit_seconds"] > 0 and row["query_seconds"] > 0 for row in rows)


def test_info_names_the_weights(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["weights"]["steps"] > 0 and facts["weights"]["megabytes"] < 25


def test_train_names_what_is_wrong(tmp_path, capsys):
    config = tmp_path / "train.json"
    config.write_text('{"output": "x", "speed": 3}')
    assert main(["train", "--config", str(config), "--data", str(tmp_path)]) == 2
    assert "speed" in capsys.readouterr().err
    config.write_text(json.dumps({"output": str(tmp_path / "run")}))
    assert main(["train", "--config", str(config), "--data", str(tmp_path)]) == 2
    assert "no training data" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_weights_that_are_no_safetensors(support, tmp_path, capsys):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"\x80\x04 not weights")
    assert run_segment(support, support / "images", tmp_path / "out", "--weights", str(weights)) == 2
    assert "weights.safetensors" in capsys.readouterr().err


def test_fetch_lists_collections_and_wants_one(capsys, monkeypatch, tmp_path):
    assert main(["fetch", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"id", "licence", "structures"} <= listed[0].keys() and len(listed) > 20
    assert main(["fetch", "tcia", "--output", str(tmp_path / "out")]) == 2
    assert "expected --collection and --output" in capsys.readouterr().err
    asked = {}
    monkeypatch.setattr("monai_hyper.data.fetch.fetch", lambda *given, **named: asked.update(named, given=given) or [])
    arguments = ["--collection", "LCTSC", "--patients", "a", "b", "--structures", "lung", "--output", str(tmp_path)]
    assert main(["fetch", "idc", *arguments]) == 0
    assert asked["given"][:4] == ("idc", "LCTSC", tmp_path, ["a", "b"]) and asked["structures"] == "lung"
