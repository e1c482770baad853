import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.runs import checkpoints


def tree(value=0.0):
    parameters = {
        "kernel": jnp.full((40, 30), value, jnp.float32),
        "bias": jnp.arange(3, dtype=jnp.float32),
    }
    return {
        "parameters": parameters,
        "optimizer": optax.adam(1e-3).init(parameters),
        "position": np.asarray(7),
    }


@pytest.fixture
def folder(tmp_path):
    for step in (10, 20, 30):
        checkpoints.save(tmp_path / "checkpoints", step, tree(step))
    return tmp_path / "checkpoints"


def test_what_is_saved_is_loaded(folder):
    step, loaded = checkpoints.load_newest(folder, tree())
    assert step == 30
    chex.assert_trees_all_equal(loaded, tree(30))
    chex.assert_trees_all_equal_dtypes(loaded, tree(30))
    assert jax.tree.structure(loaded) == jax.tree.structure(tree())


def test_only_the_newest_are_kept(folder):
    for step in (40, 100, 100):
        checkpoints.save(folder, step, tree(step))
    assert checkpoints.steps(folder) == [30, 40, 100]


def test_nothing_is_found_where_there_is_nothing(tmp_path):
    assert checkpoints.load_newest(tmp_path / "missing", tree()) is None
    assert checkpoints.steps(tmp_path) == []


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.unlink()])
@pytest.mark.parametrize("what", ["state/**/*", "_CHECKPOINT_METADATA"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(folder, damage, what, capsys):
    files = [path for path in (folder / "30").glob(what) if path.is_file()]
    for path in files:
        damage(path)
    step, loaded = checkpoints.load_newest(folder, tree())
    assert step == 20
    chex.assert_trees_all_equal(loaded, tree(20))
    warned = capsys.readouterr().err
    assert "warning: checkpoint" in warned and "is damaged" in warned and "30" in warned
    assert [path.name for path in folder.parent.glob("damaged-*/*")] == ["30"]  # nothing is lost
    assert checkpoints.steps(folder) == [10, 20]
    checkpoints.save(folder, 30, tree(31.0))  # and the run goes on
    assert checkpoints.load_newest(folder, tree())[0] == 30


def test_other_bytes_that_the_format_lets_pass_are_found_by_their_digest(folder, monkeypatch):
    read = checkpoints.ocp.load

    def with_one_bit_changed(path, like):
        tree = read(path, like)
        bits = np.array(tree["parameters"]["bias"]).view(np.uint32)
        bits[1] ^= 1
        return {**tree, "parameters": {**tree["parameters"], "bias": bits.view(np.float32)}}

    monkeypatch.setattr(checkpoints.ocp, "load", with_one_bit_changed)
    with pytest.raises(checkpoints.DamagedError, match="its SHA-256 is not the written one"):
        checkpoints.load(folder, 30, tree())


def test_all_damaged_is_none(folder, capsys):
    for path in folder.glob("*/_CHECKPOINT_METADATA"):
        path.write_text("{}")
    assert checkpoints.load_newest(folder, tree()) is None
    warned = capsys.readouterr().err
    assert warned.count("is damaged") == 3 and "starting from step 0" in warned
    assert len(list(folder.parent.glob("damaged-*/*"))) == 3


def test_what_cannot_be_read_is_no_damage(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError("not yours")

    monkeypatch.setattr(checkpoints.ocp, "load", refuse)
    with pytest.raises(PermissionError, match="not yours"):
        checkpoints.load_newest(folder, tree())
    assert checkpoints.steps(folder) == [10, 20, 30]


def test_half_a_save_is_swept_up_by_the_next(folder):
    (folder / "40.half").mkdir()
    assert checkpoints.load_newest(folder, tree())[0] == 30
    checkpoints.save(folder, 40, tree(40))
    assert sorted(path.name for path in folder.iterdir()) == ["20", "30", "40"]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {**t, "position": np.zeros(2, int)},
        lambda t: {**t, "parameters": jax.tree.map(lambda x: x.astype(jnp.float16), tree())},
        lambda t: {**t, "more": np.asarray(0)},
    ],
)
def test_another_model_is_no_damage(folder, change):
    with pytest.raises(ValueError, match=r"checkpoint .* is of another model: it has ") as caught:
        checkpoints.load_newest(folder, change(tree()))
    assert not isinstance(caught.value, checkpoints.DamagedError)
    assert checkpoints.steps(folder) == [10, 20, 30]
