"""The images of scikit-learn as shards: every image once, with its label, as it is seen when it is made small again."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from hpc_jepa.data.sources.digits import digits_splits
from hpc_jepa.errors import InputError


def test_both_splits_together_hold_every_image_once_with_its_label():
    train, test = digits_splits()
    assert (train.split, len(train), test.split, len(test)) == ("train", 1197, "test", 600)
    keys = [source.origin(index).key for source in (train, test) for index in range(len(source))]
    assert len({*keys}) == 1797
    labels = [source.load(index).label for source in (train, test) for index in range(len(source))]
    assert labels == load_digits().target.tolist()


def test_an_image_is_the_enlarged_one():
    sample = digits_splits(size=80)[1].load(5)
    with Image.open(io.BytesIO(sample.media.data)) as image:
        assert (image.size, image.mode, image.format) == ((80, 80), "RGB", "PNG")
        small = np.asarray(image)[5::10, 5::10, 0] / 255 * 16  # half a pixel off the middle of a field
    np.testing.assert_allclose(small, load_digits().images[1202], atol=2)
    assert sample.text == str(sample.label) == str(load_digits().target[1202])


@pytest.mark.parametrize("size", [14, 65, 514])
def test_an_unsupported_size_is_refused(size):
    with pytest.raises(InputError, match=f"size {size}"):
        digits_splits(size)
