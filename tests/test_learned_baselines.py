"""DeViSE, MTL-VSEM, C2AE and CLIP: their losses against loops, their limits, and what they know."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from microvid_nb.features.text import SemanticSpace
from microvid_nb.media.survey import survey_video
from microvid_nb.thumbnail.learned_baselines import (
    C2AE, MTLVSEM, BaselineSettings, CLIPSettings, CLIPZeroShot, DeViSE, TwoTaskBatch, TwoTasks, c2ae_loss,
    devise_loss, label_pair_loss, load_clip, mtl_vsem_loss, orthogonality_loss, single_label_loss)
from microvid_nb.thumbnail.popularity import TopicScorer, topic_similarities
from microvid_nb.training import fit, load_model, save_checkpoint

WORDS = ('dog', 'cat', 'car')
SMALL = BaselineSettings(WORDS, semantic=6, hidden=8, latent=4, width=1/16, size=32, frozen=())
LOSSES = {DeViSE: devise_loss, MTLVSEM: mtl_vsem_loss, C2AE: c2ae_loss}


@pytest.fixture
def space():
    return SemanticSpace([*WORDS, 'gym'], torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 1]]) > 0
    return TwoTaskBatch(
        torch.rand(5, 3, 32, 32, generator=generator),
        labels,
        torch.rand(5, 3, 32, 32, generator=generator),
        labels.flip(0),
    )


def drawn(rows, words, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, words, generator=generator, dtype=torch.float64), torch.rand(
        rows, words, generator=generator
    ) < 0.5


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 6), words=st.integers(2, 6), seed=st.integers(0, 10**6))
def test_single_label_loss_by_loops(rows, words, seed):
    scores, labels = drawn(rows, words, seed)
    means = [
        np.mean([sum(max(0, 0.1 - s[y] + s[j]) for j in range(words) if j != y) for y in range(words) if row[y]])
        for s, row in zip(scores.tolist(), labels)
        if row.any()
    ]
    assert single_label_loss(scores, labels, .1).item() == pytest.approx(np.mean(means) if means else 0, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 6), words=st.integers(2, 6), seed=st.integers(0, 10**6))
def test_label_pair_loss_by_loops(rows, words, seed):
    """Rows with all or no labels have no pairs: they are left out, and nothing is divided by 0."""
    outputs, labels = drawn(rows, words, seed)
    outputs.requires_grad_()
    means = [
        np.mean([math.exp(o[q] - o[p]) for p in range(words) if row[p] for q in range(words) if not row[q]])
        for o, row in zip(outputs.tolist(), labels)
        if row.any() and not row.all()
    ]
    loss = label_pair_loss(outputs, labels)
    assert loss.item() == pytest.approx(np.mean(means) if means else 0, rel=1e-6)
    loss.backward()
    assert outputs.grad.isfinite().all()


def test_orthogonality():
    codes = torch.linalg.qr(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)))[0]*3
    assert orthogonality_loss(codes).item() == pytest.approx(0, abs=1e-5)
    assert orthogonality_loss(torch.zeros(9, 4)).item() == 4


def test_c2ae_parts(batch):
    torch.manual_seed(0)
    model = C2AE(SMALL).eval()
    parts = c2ae_loss(model, batch)
    x, y = model.of_features(model.network(batch.images)), model.of_labels(batch.labels.float())
    assert parts['embedding'].item() == pytest.approx(((x - y)**2).sum(1).mean().item(), rel=1e-3)
    assert parts['loss'].item() == pytest.approx(
        (parts['embedding'] + 10 * parts['output'] + 0.1 * parts['orthogonality']).item(), rel=1e-5
    )
    with pytest.raises(ValueError, match="not 'gym'"):
        model.similarities(batch.images, ['dog', 'gym'])


def test_mtl_vsem_tasks(batch, space):
    """Tasks start alike, become different, and frames are judged by their own map."""
    torch.manual_seed(0)
    model = MTLVSEM(SMALL, space.prototype(WORDS))
    assert not model.of_images.weight.any() and not model.of_frames.weight.any()
    loader = DataLoader(
        TwoTasks(TensorDataset(batch.images, batch.labels), TensorDataset(batch.frames, batch.frame_words), range(3)), 5
    )
    fit(model, loader, mtl_vsem_loss, torch.optim.Adam(model.parameters(), 1e-2), 3, progress=False)
    assert (model.of_images.weight - model.of_frames.weight).abs().max() > 1e-3
    features = model.network(batch.images)
    expected = features @ (model.common.weight + model.of_frames.weight).T @ space.prototype(['gym', 'cat']).T
    torch.testing.assert_close(
        model.similarities(batch.images, ['gym', 'cat'], space), expected.detach(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize('kind', LOSSES)
def test_learns_colours(kind, space, tmp_path):
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(3, (90,), generator=generator)
    images = .2*torch.rand(90, 3, 32, 32, generator=generator)
    images[torch.arange(90), kinds] += .7
    shown = TensorDataset(images, F.one_hot(kinds, 3).bool())
    torch.manual_seed(0)
    model = kind(SMALL, space.prototype(WORDS))
    fit(
        model,
        DataLoader(TwoTasks(shown, shown, range(3)), 30, shuffle=True, generator=generator),
        LOSSES[kind],
        torch.optim.Adam(model.parameters(), 3e-3),
        60,
        progress=False,
    )
    found = model.similarities(images, WORDS, space)
    assert (found.argmax(1) == kinds).float().mean() > .9
    again = load_model(save_checkpoint(tmp_path/'model.safetensors', model, model.settings), {kind: BaselineSettings})
    torch.testing.assert_close(again.similarities(images, WORDS, space), found)


def test_two_tasks():
    tasks = TwoTasks(
        TensorDataset(torch.zeros(2, 1), torch.eye(2, 3)), TensorDataset(torch.ones(3, 1), torch.ones(3, 3)), [1, 2]
    )
    assert len(tasks) == 3 and len(list(tasks)) == 3
    assert tasks[1].labels.tolist() == [True, False] and tasks[2].frame_words.tolist() == [True, True]


@pytest.fixture
def clip():
    open_clip = pytest.importorskip('open_clip')
    torch.manual_seed(0)
    tiny = open_clip.CLIP(
        16,
        open_clip.CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32),
        open_clip.CLIPTextCfg(width=32, heads=2, layers=1),
    )
    return CLIPZeroShot(tiny, open_clip.image_transform(32, is_train=False), open_clip.get_tokenizer('ViT-B-32'))


def test_clip_similarities(clip):
    images = torch.randint(0, 256, (5, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = clip.similarities(images, ['dog', 'birthday cake'], batch=2)
    from torchvision.transforms.functional import to_pil_image
    with torch.no_grad():
        image = clip.model.encode_image(clip.transform(to_pil_image(images[3]))[None])
        text = clip.model.encode_text(clip.tokenizer(['a photo of a birthday cake']))
    assert found.shape == (5, 2) and found[3, 1].item() == pytest.approx(
        F.cosine_similarity(image, text).item(), abs=1e-5
    )


def test_clip_scores_a_clip(clip, sample):
    scores = TopicScorer(clip).score(survey_video(sample), topics={'dog': 3, 'never heard of': 1})
    assert list(topic_similarities(scores)) == ['dog', 'never heard of'] and scores.score.notna().all()


def test_clip_weights_from_a_file(clip, tmp_path, monkeypatch):
    """The real loading code, with a tiny architecture and a file of its weights."""
    open_clip = pytest.importorskip('open_clip')
    import json
    from safetensors.torch import save_file
    (tmp_path/'configs').mkdir()
    config = {
        'embed_dim': 16,
        'vision_cfg': {'layers': 1, 'width': 32, 'head_width': 16, 'patch_size': 16, 'image_size': 32},
        'text_cfg': {'width': 32, 'heads': 2, 'layers': 1},
    }
    (tmp_path/'configs'/'tiny-for-tests.json').write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path/'configs')
    path = tmp_path/'tiny.safetensors'
    save_file(clip.model.state_dict(), path)
    loaded = load_clip(CLIPSettings('tiny-for-tests', str(path)))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.similarities(images, ['dog']), clip.similarities(images, ['dog']))
    save_file({'something': torch.zeros(3)}, tmp_path/'other.safetensors')
    with pytest.raises(ValueError, match='other.safetensors: these are not the weights of tiny-for-tests'):
        load_clip(CLIPSettings('tiny-for-tests', str(tmp_path/'other.safetensors')))


def test_clip_errors(tmp_path, monkeypatch):
    open_clip = pytest.importorskip('open_clip')
    with pytest.raises(ValueError, match='expected a .safetensors file'):
        load_clip(CLIPSettings(pretrained=str(tmp_path/'weights.pt')))
    with pytest.raises(FileNotFoundError, match='no such file of CLIP weights'):
        load_clip(CLIPSettings(pretrained=str(tmp_path/'weights.safetensors')))
    with pytest.raises(ValueError, match="open_clip has no weights 'nobody' for 'ViT-B-32'; it has openai"):
        load_clip(CLIPSettings(pretrained='nobody'))

    def no_network(*_, **__):
        raise RuntimeError('no network')
    monkeypatch.setattr(open_clip, 'create_model_and_transforms', no_network)
    with pytest.raises(FileNotFoundError, match='published as laion/CLIP-ViT-B-32'):
        load_clip()
    monkeypatch.setitem(__import__('sys').modules, 'open_clip', None)
    with pytest.raises(ImportError, match=r'pip install microvid_nb\[clip\]'):
        load_clip()
