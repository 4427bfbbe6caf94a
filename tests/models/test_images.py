import numpy as np
import pytest
from PIL import Image

from missile_jax.errors import InvalidInputError, MissileError
from missile_jax.models import images

WAYS = [images.for_torchvision, images.for_efficientnet, images.for_squeezenet]


def test_photos_are_the_seven_that_ship_with_the_packages(photos):
    shapes = {name: photo.shape for name, photo in photos.items()}
    assert shapes == {
        "chelsea": (300, 451, 3),
        "coffee": (400, 600, 3),
        "rocket": (427, 640, 3),
        "astronaut": (512, 512, 3),
        "motorcycle_left": (500, 741, 3),
        "china": (427, 640, 3),
        "flower": (427, 640, 3),
    }
    assert {photo.dtype for photo in photos.values()} == {np.dtype(np.uint8)}


def test_a_missing_package_is_named():
    with pytest.raises(MissileError, match=r"ships with no_such_package, which is not installed"):
        images._locate("no_such_package", "a.png")


def test_one_colour_gives_the_number_that_the_network_was_trained_with():
    image = np.empty((300, 400, 3), np.uint8)
    image[:] = (255, 127, 0)
    red, green, blue = images.for_torchvision(image)[0, 5, 7]
    assert (red, green, blue) == pytest.approx(
        ((1 - 0.485) / 0.229, (127 / 255 - 0.456) / 0.224, -0.406 / 0.225), rel=1e-5
    )
    assert images.for_efficientnet(image)[0, 5, 7].tolist() == [1, 0, -127 / 128]
    assert images.for_squeezenet(image)[0, 5, 7] == pytest.approx(
        [0 - 103.939, 127 - 116.779, 255 - 123.68], rel=1e-5
    )


@pytest.mark.parametrize("shape", [(256, 256, 3), (300, 451, 3), (451, 300, 3), (40, 30, 3)])
@pytest.mark.parametrize("way", WAYS)
def test_every_size_gives_one_float32_square(way, shape):
    side = 227 if way is images.for_squeezenet else 224
    x = way(np.zeros(shape, np.uint8))
    assert (x.shape, x.dtype) == ((1, side, side, 3), np.float32)


def test_the_crop_is_the_middle():
    image = np.zeros((256, 384, 3), np.uint8)
    image[16:240, 80:304] = 255
    assert (images.for_efficientnet(image) == 1).all()


def test_the_short_side_becomes_256_before_the_crop(photos):
    picture = Image.fromarray(photos["chelsea"]).resize((385, 256), Image.Resampling.BICUBIC)
    expected = (np.asarray(picture, np.float32)[16:240, 80:304] - 127) / 128
    np.testing.assert_array_equal(images.for_efficientnet(photos["chelsea"])[0], expected)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_refuses_what_is_no_rgb_image(way, image):
    with pytest.raises(InvalidInputError, match=r"allowed: uint8 \[H, W, 3\]"):
        way(image)
