import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.captions.batches import annotated_batches, masked


@pytest.mark.parametrize(
    "inputs",
    [
        np.full((400, 8, 24), 9, np.uint8),
        np.full((400, 12), 3, np.int32),
        np.full((400, 9, 2), 0.5, np.float32),
    ],
    ids=["pictures", "words", "features"],
)
def test_three_quarters_are_masked_whatever_the_inputs(inputs):
    found = np.asarray(masked(jax.random.key(0), jnp.asarray(inputs), share=0.75))
    assert found.shape == inputs.shape and found.dtype == inputs.dtype
    assert set(np.unique(found)) == {0, inputs.flat[0]}
    assert abs((found == 0).mean() - 0.75) < 0.03
    if inputs.dtype == np.uint8:  # in cells
        cells = found.reshape(400, 2, 4, 6, 4).swapaxes(2, 3).reshape(400, 12, 16)
        assert (cells.min(2) == cells.max(2)).all()


class TestBatches:
    images = np.arange(10)[:, None].astype(np.uint8)
    texts = np.arange(30)[:, None].astype(np.int32)
    annotations = np.stack([np.repeat(np.arange(2, 10), 3), np.arange(24)], 1)

    def batches(self, **options):
        arguments = {"seed": 0, "batch_size": 5, **options}
        return annotated_batches(self.images, self.texts, self.annotations, 40, **arguments)

    def test_images_differ_and_captions_are_theirs(self):
        seen = set()
        for batch in self.batches():
            image, text = batch.images[:, 0], batch.texts[:, 0]
            assert len(set(image.tolist())) == 5
            assert (text // 3 + 2 == image).all()
            np.testing.assert_array_equal(batch.labels, np.eye(5))
            seen |= set(text.tolist())
        assert seen == set(range(24))

    def test_a_batch_is_a_function_of_seed_and_place(self):
        chex.assert_trees_all_equal(self.batches()[7], self.batches()[7])
        same = [(self.batches()[k].texts == self.batches(seed=1)[k].texts).all() for k in range(5)]
        assert not all(same)

    def test_labels_are_what_is_true_where_that_is_given(self):
        positives = np.random.default_rng(0).random((10, 30)) < 0.5
        for batch in self.batches(positives=positives):
            np.testing.assert_array_equal(
                batch.labels, positives[batch.images[:, 0]][:, batch.texts[:, 0]]
            )

    @pytest.mark.parametrize("batch_size", [1, 9])
    def test_bad_batch_size(self, batch_size):
        with pytest.raises(ValueError, match=rf"batch_size must lie in 2..8.*got {batch_size}"):
            self.batches(batch_size=batch_size)
