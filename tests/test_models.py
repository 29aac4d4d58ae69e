"""Architectures, weights and their sources; the input contract; what concatenation starts from."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest

from hmsutils import models
from hmsutils.models import BACKBONES, BackboneSpec, ModelConfig, WaveNetConfig
from hmsutils.representations import Image, WaveNetInput
from hmsutils.signals import DOUBLE_BANANA

TINY = ModelConfig(
    inputs={"image": Image(n_mels=8, n_frames=64), "eeg": WaveNetInput(decimate=50)},
    wavenet=WaveNetConfig(filters=4, dilations=(1, 2), features=8),
)
SHAPE, EEG_SHAPE = (32, 64, 3), (200, 18)


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A preset folder of the smallest backbone, written by KerasCV itself, with its rescaling."""
    import keras_cv
    from keras_cv.src.utils.preset_utils import save_to_preset

    spec = BACKBONES["mobilenet_v3_large"]
    backbone = getattr(keras_cv.models, spec.builder)(
        **spec.arguments, include_rescaling=True, input_shape=(224, 224, 3)
    )
    folder = tmp_path_factory.mktemp("presets") / spec.preset
    save_to_preset(backbone, str(folder))
    return folder, backbone


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No preset on this machine, no Kaggle mount, no cache."""
    monkeypatch.setenv("HMS_HOME", str(tmp_path))
    monkeypatch.delenv("HMS_PRESET_DIR", raising=False)
    monkeypatch.setenv("HMS_KAGGLE_INPUT", str(tmp_path / "kaggle"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("name", BACKBONES)
def test_random_backbones_have_the_published_size_and_never_touch_the_network(name, no_network):
    model = models.build_backbone(name, TINY, weights=None)
    tower = model.get_layer(name)
    assert tower.count_params() == BACKBONES[name].params
    assert tower.output_shape == (None, BACKBONES[name].features)
    assert model.output_shape == (None, 6) and set(model.input) == {"image"}
    assert not any(isinstance(layer, keras.layers.Rescaling) for layer in model._flatten_layers())


def test_a_new_row_of_the_table_is_a_backbone_that_looks_at_the_input_it_names(monkeypatch):
    def build(spec, shape, weights):
        inputs = keras.Input(shape)
        return keras.Model(inputs, keras.layers.Conv2D(spec.features, 3, strides=8)(inputs))

    monkeypatch.setitem(BACKBONES, "toy", BackboneSpec(140, 5, build=build, input="close-up"))
    inputs = TINY.inputs | {"close-up": Image(n_mels=4, n_frames=32)}
    config = replace(TINY, towers=("toy", "wavenet"), inputs=inputs)
    assert config.input_names == ("close-up", "eeg") and config.params == 140
    model = models.build_model(config)
    assert model.get_layer("toy").count_params() == 140
    shapes = {name: tensor.shape for name, tensor in model.input.items()}
    assert shapes == {"close-up": (None, 16, 32, 3), "eeg": (None, *EEG_SHAPE)}
    with pytest.raises(ValueError, match="toy looks at 'close-up', but `inputs` has image, eeg"):
        models.build_model(replace(config, inputs=TINY.inputs))


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown backbone 'vgg'; choose from efficientnetv2_b2"):
        models.build_backbone("vgg", TINY, weights=None)


def test_resnet_has_the_published_strides_where_it_is_asked_for():
    slow, fast = (
        models.build_backbone("resnet50_v2", replace(TINY, standard_strides=standard), weights=None)
        for standard in (False, True)
    )
    assert [w.shape for w in slow.get_weights()] == [w.shape for w in fast.get_weights()]
    fast.set_weights(slow.get_weights())

    def height(model, stage):  # of the images in the middle of a stage
        return model.get_layer("resnet50_v2").get_layer(stage).output.shape[1]

    stages = [f"v2_stack_{i}_block1_out" for i in range(4)]
    assert [height(slow, s) for s in stages] == [8, 8, 4, 2]  # of 32, after stem and pooling: 8
    assert [height(fast, s) for s in stages] == [8, 4, 2, 1]
    with pytest.raises(ValueError, match="trained with other strides; pass standard_strides=False"):
        models.build_backbone("resnet50_v2", replace(TINY, standard_strides=True), "imagenet")


def test_channels_first_is_refused_with_one_sentence(monkeypatch):
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    with pytest.raises(ValueError, match="image_data_format is channels_first.*keras.json"):
        models.build_wavenet(TINY)


# ------------------------------------------------------------------------------------- backends


def test_the_backbones_of_kerascv_leave_no_part_of_it_behind():
    before = {name: module for name, module in sys.modules.items() if "keras_cv" in name}
    models._load_kerascv.cache_clear()
    modules = models._kerascv()
    after = {name: module for name, module in sys.modules.items() if "keras_cv" in name}
    assert after == before and set(modules) == {spec.builder for spec in BACKBONES.values()}
    import keras_cv

    assert hasattr(keras_cv.layers, "MixUp") and hasattr(keras_cv.models, "ResNetV2Backbone")


def test_threads_load_kerascv_once():
    models._load_kerascv.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: models._kerascv(), range(4)))
    assert all(modules is found[0] for modules in found)


BUILD = """
import sys
import numpy as np
from tests import test_models as t
for name in sys.argv[2:]:
    model = t.models.build_backbone(name, t.TINY, weights=None)
    model.load_weights(f"{sys.argv[1]}/{name}.weights.h5")
    images = {"image": np.load(f"{sys.argv[1]}/images.npy")}
    np.save(f"{sys.argv[1]}/{name}.npy", model.predict_on_batch(images))
    if name == "mobilenet_v3_large":
        model.compile("sgd", "kl_divergence")
        before = model.get_layer("head").get_weights()[0]
        assert np.isfinite(model.train_on_batch(images, np.full((2, 6), 1 / 6)))
        assert not np.array_equal(model.get_layer("head").get_weights()[0], before)
assert "tensorflow" not in sys.modules
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_backend_predicts_the_same_and_trains_without_tensorflow(backend, tmp_path, rng):
    if not find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    images = rng.uniform(0, 1, (2, *SHAPE)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    expected, names = {}, ["resnet50_v2", "mobilenet_v3_large"]
    if "HMS_EXAMPLES" in os.environ:  # the other two take another minute
        names = list(BACKBONES)
    for name in names:
        model = models.build_backbone(name, TINY, weights=None)
        model.save_weights(tmp_path / f"{name}.weights.h5")
        expected[name] = model({"image": images}, training=False).numpy()
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": path}
    command = [sys.executable, "-c", BUILD, str(tmp_path), *names]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, prediction in expected.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), prediction, atol=1e-4)


# ------------------------------------------------------------------------------ ImageNet presets


def test_a_preset_is_loaded_and_its_rescaling_replaced_by_the_contract(
    preset, nowhere, monkeypatch, rng, no_network
):
    folder, original = preset
    monkeypatch.setenv("HMS_PRESET_DIR", str(folder.parent))
    model = models.build_backbone("mobilenet_v3_large", TINY, weights="imagenet")
    image = rng.uniform(0, 1, (2, *SHAPE)).astype(np.float32)
    ours = model.get_layer("mobilenet_v3_large")(image)
    resized = original.__class__.from_config(original.get_config() | {"input_shape": list(SHAPE)})
    resized.set_weights(original.get_weights())
    theirs = resized(image * 255)  # KerasCV: 0–255 in, its Rescaling divides
    np.testing.assert_allclose(ours, np.mean(theirs, axis=(1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "place",
    [
        "models/presets",
        "kaggle/models/keras/mobilenetv3/keras/{preset}/2",
        "kaggle/mobilenetv3/keras/{preset}/2",
        "kaggle/mobilenetv3/Keras/{preset}/1",
    ],
)
def test_presets_are_found_in_the_project_and_on_kaggle(place, preset, nowhere, no_network):
    spec = BACKBONES["mobilenet_v3_large"]
    folder = nowhere / place.format(preset=spec.preset)
    folder = folder if place.startswith("kaggle") else folder / spec.preset
    shutil.copytree(preset[0], folder)
    assert models.preset_folder(BACKBONES["mobilenet_v3_large"]) == folder


def test_without_weights_the_error_says_where_it_looked_and_how_to_attach_them(nowhere, no_network):
    with pytest.raises(FileNotFoundError) as caught:
        models.build_backbone("resnet50_v2", TINY, weights="imagenet")
    message = str(caught.value)
    for part in (
        "resnet50_v2_imagenet",
        "models/presets",
        "keras/resnetv2/keras",
        "HMS_PRESET_DIR",
        "weights=None",
    ):
        assert part in message


class FakeKaggle(http.server.BaseHTTPRequestHandler):
    """The three calls kagglehub makes to download a model."""

    folder: Path
    refuse = False

    def do_POST(self):  # noqa: N802
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if self.refuse:
            self.send_error(403, "Forbidden")
        elif self.path.endswith("ListModelInstanceVersionFiles"):
            names = sorted(
                p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file()
            )
            self.answer(json.dumps({"files": [{"name": name} for name in names]}).encode())
        elif self.path.endswith("DownloadModelInstanceVersion"):
            self.answer((self.folder / asked["path"]).read_bytes(), "application/octet-stream")
        else:
            self.send_error(404)

    def answer(self, body, kind="application/json"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def kaggle(nowhere, preset, monkeypatch):
    """A local server that speaks as much of Kaggle's API as kagglehub needs."""
    from kagglesdk import kaggle_env

    handler = type("Handler", (FakeKaggle,), {"folder": preset[0]})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.TEST, address)
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    yield handler
    server.shutdown()


def test_presets_are_downloaded_by_kagglehub_and_cached(kaggle, preset):
    folder = models.preset_folder(BACKBONES["mobilenet_v3_large"])
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in preset[0].iterdir())
    model = models.build_backbone("mobilenet_v3_large", TINY, weights="imagenet")
    weights = model.get_layer("mobilenet_v3_large").get_weights()
    for ours, theirs in zip(weights, preset[1].get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    kaggle.refuse = True
    assert models.preset_folder(BACKBONES["mobilenet_v3_large"]) == folder


def test_a_refused_download_is_an_error_that_helps(kaggle):
    kaggle.refuse = True
    with pytest.raises(FileNotFoundError, match="(?s)could not download.*attach the model"):
        models.preset_folder(BACKBONES["mobilenet_v3_large"])


# ------------------------------------------------------------------------------ WaveNet and
# concatenation


def test_the_wavenet_sees_exactly_its_receptive_field():
    config = WaveNetConfig(filters=4, dilations=(1, 2, 4), stacks=2, features=4)
    assert config.receptive_field == 1 + 2 * 2 * 7
    assert WaveNetConfig().receptive_field == 511  # 12.8 s at 40 Hz
    seen = WaveNetInput(pairs=DOUBLE_BANANA[:3], decimate=99)
    assert seen.shape == (102, 3)
    model = models.build_wavenet(ModelConfig(inputs={"eeg": seen}, wavenet=config))
    tower = model.get_layer("wavenet")
    before_pooling = keras.Model(tower.input, tower.get_layer("post").output)
    x = np.random.default_rng(0).normal(size=(1, 102, 3)).astype(np.float32)
    moved = x.copy()
    moved[0, 50] += 1.0
    change = np.abs(np.asarray(before_pooling(moved)) - np.asarray(before_pooling(x))).max(
        axis=(0, 2)
    )
    reached = np.flatnonzero(change > 1e-9)
    half = config.receptive_field // 2
    assert reached.min() >= 50 - half and reached.max() <= 50 + half
    assert reached.min() <= 50 - half + 2  # the rim itself may be silenced by the rectifier


def test_wavenet_blocks_are_gated_residual_and_skipped():
    tower = models.build_wavenet(TINY).get_layer("wavenet")
    convolutions = {
        layer.name: layer for layer in tower.layers if isinstance(layer, keras.layers.Conv1D)
    }
    assert (
        convolutions["s0_d2_conv"].dilation_rate == (2,) and convolutions["s0_d2_conv"].filters == 8
    )
    for layer in convolutions.values():  # silence one gate: its block passes its input on unchanged
        if layer.name == "s0_d1_conv":
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel * 0, np.r_[bias[:4] * 0 + 9, bias[4:] * 0 - 99]])
    x = np.random.default_rng(0).normal(size=(1, *EEG_SHAPE)).astype(np.float32)
    stem = keras.Model(tower.input, tower.get_layer("stem").output)(x)
    second = tower.get_layer("s0_d2_conv")
    residual_bias = tower.get_layer("s0_d1_residual").get_weights()[1]
    into_second = keras.Model(tower.input, second.input)(x)
    np.testing.assert_allclose(into_second, np.asarray(stem) + residual_bias, atol=1e-5)


def test_concat_holds_every_tower_and_one_head():
    names = ["mobilenet_v3_large", "efficientnetv2_b2"]
    model = models.build_concat(names, TINY, weights=None)
    features = sum(BACKBONES[name].features for name in names) + 4 * TINY.wavenet.features
    assert model.get_layer("head").kernel.shape == (features, 6)
    batch = {
        "image": np.zeros((2, *SHAPE), np.float32),
        "eeg": np.zeros((2, *EEG_SHAPE), np.float32),
    }
    np.testing.assert_allclose(np.sum(model(batch), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("weights", "powers"), [(None, (0.5, 0.5)), ([0.8, 0.2], (0.8, 0.2))])
def test_a_warm_start_predicts_the_geometric_mean_of_the_single_models(rng, weights, powers):
    singles = [
        models.build_backbone("mobilenet_v3_large", TINY, weights=None),
        models.build_wavenet(TINY),
    ]
    model = models.build_concat(["mobilenet_v3_large"], TINY, weights=None)
    models.warm_start(model, singles, weights)
    batch = {
        "image": rng.uniform(0, 1, (3, *SHAPE)).astype(np.float32),
        "eeg": rng.normal(0, 1, (3, *EEG_SHAPE)).astype(np.float32),
    }
    parts = [single({key: batch[key]}) for single, key in zip(singles, batch, strict=True)]
    image, eeg = (np.asarray(part) ** k for part, k in zip(parts, powers, strict=True))
    product = image * eeg
    wanted = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model(batch), wanted, atol=1e-5)
    with pytest.raises(ValueError, match="no trained wavenet among mobilenet_v3_large"):
        models.warm_start(model, singles[:1])


def test_freezing_leaves_only_the_head_to_train():
    model = models.build_concat(["mobilenet_v3_large"], TINY, weights=None)
    assert len(model.trainable_variables) > 100
    models.freeze_towers(model)
    assert len(model.trainable_variables) == 2


def test_frozen_batch_statistics_stay_as_they_are(rng):
    model = models.build_backbone("mobilenet_v3_large", TINY, weights=None)
    models.freeze_batch_norm(model)
    norms = [v for v in model.variables if "moving_" in v.path]
    before = [np.array(v) for v in norms]
    model({"image": rng.uniform(0, 1, (4, *SHAPE)).astype(np.float32)}, training=True)
    assert norms and not [v for v in model.trainable_variables if "gamma" in v.path]
    for variable, value in zip(norms, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_the_softmax_stays_float32_in_mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.build_wavenet(TINY)
        out = model(np.zeros((1, *EEG_SHAPE), np.float32))
        assert keras.backend.standardize_dtype(out.dtype) == "float32"
        assert model.get_layer("wavenet").compute_dtype == "bfloat16"
    finally:
        keras.config.set_dtype_policy(before)
