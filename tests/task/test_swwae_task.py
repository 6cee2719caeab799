"""One training step: which parts run, on which images, for which lambdas."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import swwae_zoo  # noqa: F401  registers the models
from swwae_zoo.data import IndexStream
from swwae_zoo.loss import (
    Lambdas,
    TermOptions,
    consistency_loss,
    middle_losses,
    reconstruction_loss,
    softmatch,
    threshold,
)
from swwae_zoo.task.swwae_task import SWWAETask

TARGET = torch.tensor([0, 3, 6])
IMAGES = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))  # 3 labelled, 5 not

SUPERVISED = Lambdas(1.0, 0.0, 0.0)
UNSUPERVISED = Lambdas(0.0, 1.0, (2.0, 0.5))
SEMI_SUPERVISED = Lambdas(1.0, 3.0, (2.0, 0.5), l1=0.1)
CONSISTENT = Lambdas(1.0, 0.0, 0.0, consistency=2.0)
ALL = Lambdas(1.0, 3.0, (2.0, 0.5), consistency=2.0, cross=0.5)
WEAK = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(1))


def with_teacher(model, lambdas, pseudo_labels="threshold", **options):
    task = SWWAETask(model, lambdas, TermOptions(confidence=0.1, pseudo_labels=pseudo_labels), **options)
    task.setup_ema(0.5)
    with torch.no_grad():
        for parameter in task.trainable_module_ema.parameters():
            parameter.mul_(1.5)  # a teacher that differs from the student
    return task


@pytest.fixture
def model():
    torch.manual_seed(0)
    return timm.create_model("swwae_mnist", notation="(4)3c-2p-(6)3c-2p-(8)3c-3p-7fc", img_size=12)


def fail(*args, **kwargs):
    raise AssertionError("this part was not to run")


def watch(module):
    """Batch sizes that a module is given from now on."""
    seen = []
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0]))
    return seen


def test_eq_1_by_hand(model):
    out = SWWAETask(model, SEMI_SUPERVISED)(IMAGES, TARGET)
    encoding = model.forward_encoder(IMAGES)
    decoding = model.forward_decoder(encoding)
    logits = model(IMAGES[:3])
    nll = F.cross_entropy(logits, TARGET)
    rec = F.mse_loss(decoding.reconstruction, IMAGES)
    first, second = (F.mse_loss(decoded, what) for what, decoded in decoding.middles)
    l1 = sum(what.abs().mean() for what in encoding.whats)
    torch.testing.assert_close(out["output"], logits)
    torch.testing.assert_close(
        [out[name] for name in ("nll", "rec", "middle", "l1", "loss")],
        [nll, rec, first + second, l1, nll + 3 * rec + 2 * first + 0.5 * second + 0.1 * l1],
    )
    assert [name for name, value in out.items() if value.requires_grad] == ["loss"]


def test_supervised_is_the_plain_convnet(model):
    model.forward_encoder = model.decoder.forward = fail
    seen = watch(model.stages[0]), watch(model.head)
    task = SWWAETask(model, SUPERVISED)
    assert not task.uses_unlabeled
    out = task(IMAGES, TARGET)
    assert out.keys() == {"loss", "output", "nll"} and seen == ([3], [3])  # the unlabelled are not even encoded
    torch.testing.assert_close(out["loss"], F.cross_entropy(model(IMAGES[:3]), TARGET))


def test_zeros_per_middle_are_supervised_too(model):
    model.decoder.forward = fail
    assert SWWAETask(model, Lambdas(1.0, 0.0, (0.0, 0.0)))(IMAGES, TARGET).keys() == {"loss", "output", "nll"}


def test_the_rival_penalty_needs_no_decoder(model):
    model.decoder.forward = fail
    task = SWWAETask(model, Lambdas(1.0, 0.0, (0.0, 0.0), l1=0.5))
    assert task.uses_unlabeled
    out = task(IMAGES, TARGET)
    assert out.keys() == {"loss", "output", "nll", "l1"}
    torch.testing.assert_close(out["loss"], out["nll"] + 0.5 * out["l1"], check_stride=False)


def test_the_head_sees_labelled_images_only(model):
    seen, decoded = watch(model.head), watch(model.decoder.stages[0])
    encoded = []
    forward = model.stages[0].forward_switch
    model.stages[0].forward_switch = lambda x: (encoded.append(x.shape[0]), forward(x))[1]
    SWWAETask(model, SEMI_SUPERVISED)(IMAGES, TARGET)
    assert (encoded, seen, decoded) == ([8], [3], [8])  # one pass over all images


def test_unsupervised_leaves_the_head_alone(model):
    task = SWWAETask(model, UNSUPERVISED)
    task(IMAGES, TARGET)["loss"].backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {"head.fc.weight", "head.fc.bias"}
    weights = copy.deepcopy([p.grad for p in model.stages.parameters()])
    model.zero_grad()
    out = task(IMAGES, TARGET[:0])  # no labelled image is needed, and labels change nothing
    out["loss"].backward()
    assert out["nll"].item() == 0 and out["output"].shape == (0, 7)
    torch.testing.assert_close([p.grad for p in model.stages.parameters()], weights)


def test_a_nan_in_a_term_of_weight_0_stays_out(model):
    with torch.no_grad():
        model.head.fc.weight.fill_(float("nan"))
    out = SWWAETask(model, UNSUPERVISED)(IMAGES, TARGET)
    assert out["nll"].isnan() and out["loss"].isfinite()


def test_semi_supervised_learns_from_both_streams(model):
    task = SWWAETask(model, SEMI_SUPERVISED)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        out = task(IMAGES, TARGET)
        out["loss"].backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(out)
    for name in ("loss", "nll", "rec"):
        assert losses[-1][name] < losses[0][name]


def test_detached_targets(model):
    def gradient_of_middles(detach):
        model.zero_grad()
        SWWAETask(model, Lambdas(0.0, 0.0, (0.0, 1.0)), TermOptions(detach_targets=detach))(IMAGES, TARGET)[
            "loss"
        ].backward()
        return torch.cat([p.grad.flatten() for p in model.stages[1].parameters()])

    assert not torch.allclose(gradient_of_middles(True), gradient_of_middles(False))
    middle = model.forward_swwae(IMAGES).middles[1]
    model.zero_grad()
    F.mse_loss(middle[1], middle[0].detach()).backward()
    torch.testing.assert_close(
        torch.cat([p.grad.flatten() for p in model.stages[1].parameters()]), gradient_of_middles(True)
    )


def test_reconstruction_trains_the_decoder_alone(model):
    def gradients(lambdas, **options):
        model.zero_grad()
        SWWAETask(model, lambdas, TermOptions(**options))(IMAGES, TARGET)["loss"].backward()
        return {name: p.grad for name, p in model.named_parameters()}

    def part(grads, decoder):
        return {name: grad for name, grad in grads.items() if name.startswith("decoder.") == decoder}

    lambdas = Lambdas(1.0, 3.0, (2.0, 0.5))
    alone = gradients(lambdas, decoder_only=True)
    torch.testing.assert_close(part(alone, False), part(gradients(SUPERVISED), False))
    both = gradients(lambdas)
    torch.testing.assert_close(part(alone, True), part(both, True))
    assert not torch.allclose(alone["stages.0.convs.0.conv.weight"], both["stages.0.convs.0.conv.weight"])


@pytest.mark.parametrize(
    ("lambdas", "pseudo_labels"),
    [(UNSUPERVISED, ""), (SEMI_SUPERVISED, ""), (ALL, "threshold"), (ALL, "softmatch")],
    ids=["unsupervised", "semi-supervised", "threshold", "softmatch"],
)
def test_a_compiled_step_is_the_eager_one(model, lambdas, pseudo_labels):
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        net = copy.deepcopy(model)
        task = with_teacher(net, lambdas, pseudo_labels, ramp=0.5) if pseudo_labels else SWWAETask(net, lambdas)
        if compiled:
            assert task.compile(backend="aot_eager") is net
        for step in range(2):  # the second is weighted by what the first one's teacher said
            task.set_progress(step / 4)
            out = task(IMAGES, TARGET, WEAK)
        out["loss"].backward()
        results.append((out, {name: p.grad for name, p in net.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(results[1], results[0])


def test_lambdas_that_do_not_fit_are_told_at_once(model):
    with pytest.raises(ValueError, match="lambda_middle has 3 values, but the model has 2 middles"):
        SWWAETask(model, Lambdas(middle=(1.0, 1.0, 1.0)))


def test_compiled_once_for_a_whole_run():
    """No graph break, and one graph for every batch: the streams never hand out a smaller last one."""
    torch.compiler.reset()
    model = timm.create_model("swwae_mnist", notation="(4)3c-2p-(4)3c-2p-10fc")
    options = TermOptions(pseudo_labels="softmatch")
    task = SWWAETask(model, Lambdas(1.0, 1.0, 1.0, consistency=1.0), options, ramp=0.5)
    task.setup_ema(0.9)
    task.compile(backend="aot_eager")  # fullgraph: a break would be an error
    labeled, unlabeled = IndexStream(7, 3, seed=0), IndexStream(11, 4, seed=1)
    with torch._dynamo.config.patch(error_on_recompile=True):
        while unlabeled.epoch < 3:  # 7 and 11 images don't divide into these batches
            images = torch.rand(len(labeled.next()) + len(unlabeled.next()), 1, 32, 32)
            task.set_progress(unlabeled.epoch / 3)
            task(images, torch.randint(10, (3,)), images[3:])["loss"].backward()
            task.update_ema()
    assert labeled.epoch > 1


def test_without_the_decoders_lambdas_a_step_is_the_plain_convnets():
    """The same arithmetic, counted: forward, backward, and nothing for the unlabelled images."""
    model = timm.create_model("swwae_mnist", notation="(4)3c-2p-(4)3c-2p-10fc")
    task, images, target = SWWAETask(model, Lambdas(1.0, 0.0, 0.0)), torch.rand(5, 1, 32, 32), torch.randint(10, (2,))
    convnet = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(256, 10))  # fmt: skip
    flops = []
    for work in (
        lambda: task(images, target)["loss"],
        lambda: torch.nn.functional.cross_entropy(convnet(images[:2]), target),
    ):
        with FlopCounterMode(display=False) as counter:
            work().backward()
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] > 0


def test_consistency_in_one_pass(model):
    task = with_teacher(model, CONSISTENT)
    model.decoder.forward = fail
    seen, taught = watch(model.stages[0]), watch(task.trainable_module_ema.module.stages[0])
    out = task(IMAGES, TARGET, WEAK)
    assert (seen, taught) == ([8], [5])  # the student once, the teacher on weak views alone
    teacher = task.trainable_module_ema.module
    expected = consistency_loss(model(IMAGES[3:]), *threshold(teacher(WEAK), 0.1))
    torch.testing.assert_close(out["consistency"], expected)
    torch.testing.assert_close(out["loss"], out["nll"] + 2 * out["consistency"])
    out["loss"].backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_softmatch_weighs_by_the_steps_before(model):
    task = with_teacher(model, CONSISTENT, "softmatch", class_shares=torch.tensor([0.4, *[0.1] * 6]))
    teacher, first = task.trainable_module_ema.module, task.get_task_state()
    for step in range(3):
        before = copy.deepcopy(task.statistics)
        out = task(IMAGES, TARGET, WEAK + step)
        expected = consistency_loss(model(IMAGES[3:]), *softmatch(teacher(WEAK + step), before))
        torch.testing.assert_close(out["consistency"], expected)
        assert set(out) == {"loss", "output", "nll", "consistency"}
    state = task.get_task_state()
    assert not torch.equal(state["classes"], first["classes"])
    task.load_task_state(first)
    assert torch.equal(task.statistics.classes, first["classes"]) and task.statistics.steps == 0


def test_an_unknown_kind_of_pseudo_labels(model):
    with pytest.raises(ValueError, match="^pseudo_labels: got 'softmtch', expected one of threshold, softmatch$"):
        with_teacher(model, CONSISTENT, "softmtch")


def test_shares_of_another_number_of_classes(model):
    with pytest.raises(ValueError, match=r"^class_shares: got shape \(4,\), expected \(7,\)$"):
        with_teacher(model, CONSISTENT, "softmatch", class_shares=torch.ones(4) / 4)


def test_cross_view_reconstruction(model):
    """The strong view's top what, decoded through the weak view's wheres as the teacher sees them."""
    task = with_teacher(model, Lambdas(0.0, 0.0, 0.0, cross=1.0))
    out = task(IMAGES, TARGET, WEAK)
    student, teacher = model.forward_encoder(IMAGES[3:]), task.trainable_module_ema.module.forward_encoder(WEAK)
    decoding = model.forward_decoder(teacher._replace(features=student.features))
    expected = reconstruction_loss(decoding.reconstruction, WEAK) + sum(middle_losses(decoding.middles))
    torch.testing.assert_close(out["cross"], expected)


@pytest.mark.parametrize("name", ["swwae_mnist", "wrapped"])
def test_noise_in_clean_image_and_clean_whats_as_targets(model, name):
    if name == "wrapped":
        model = swwae_zoo.wrap("test_resnet", num_classes=7, in_chans=1, img_size=12, decoder="light")
    task = with_teacher(model.eval(), Lambdas(1.0, 1.0, 1.0))
    task.options = TermOptions(noise=0.5)
    torch.manual_seed(5)
    out = task(IMAGES, TARGET)
    torch.manual_seed(5)
    noisy = IMAGES + 0.5 * torch.randn_like(IMAGES)
    encoding, clean = model.forward_encoder(noisy), task.trainable_module_ema.module.forward_encoder(IMAGES)
    decoding = model.forward_decoder(encoding)
    decoded = [decoded for _, decoded in decoding.middles]
    targets = [what for what, _ in model.forward_decoder(clean).middles]
    torch.testing.assert_close(out["output"], model(noisy)[:3])
    torch.testing.assert_close(out["rec"], F.mse_loss(decoding.reconstruction, IMAGES))
    expected = sum(F.mse_loss(*pair) for pair in zip(decoded, targets, strict=True))
    torch.testing.assert_close(out["middle"], expected)
    out["loss"].backward()
    assert all(p.grad is None for p in task.trainable_module_ema.parameters())


def test_noise_is_for_reconstruction_alone(model):
    with_noise = SWWAETask(model, SUPERVISED, TermOptions(noise=0.5))
    assert torch.equal(with_noise(IMAGES, TARGET)["loss"], SWWAETask(model, SUPERVISED)(IMAGES, TARGET)["loss"])
    with pytest.raises(ValueError, match="give --ema 0.99"):
        SWWAETask(model, SEMI_SUPERVISED, TermOptions(noise=0.5))(IMAGES, TARGET)


def test_schedules(model):
    lambdas = Lambdas(1.0, 1.0, 0.0, consistency=1.0)
    task = with_teacher(model, lambdas, ramp=0.5, fade=0.25)
    weights = []
    for done in (0.0, 0.25, 0.5, 0.75, 0.875, 1.0):
        task.set_progress(done)
        out = task(IMAGES, TARGET, WEAK)
        rest = float((out["loss"] - out["nll"]).detach())
        consistency, rec = min(1.0, done / 0.5), min(1.0, (1 - done) / 0.25)
        weights.append((consistency, rec))
        assert rest == pytest.approx(float(consistency * out["consistency"] + rec * out["rec"]), rel=1e-5)
    assert weights == [(0, 1), (0.5, 1), (1, 1), (1, 1), (1, 0.5), (1, 0)]


def test_what_a_teacher_needs(model):
    task = SWWAETask(model, CONSISTENT)
    with pytest.raises(ValueError, match="pass weak="):
        task(IMAGES, TARGET)
    with pytest.raises(ValueError, match="give --ema 0.99"):
        task(IMAGES, TARGET, WEAK)


def test_a_decoder_beside_consistency_leaves_the_encoder_as_it_is(model):
    """Adding reconstruction is never worse, by construction: the encoder is the same to the last bit."""
    weak = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    ends = []
    for lambdas in (Lambdas(1.0, 0.0, 0.0, consistency=1.0), Lambdas(1.0, 5.0, (2.0, 0.5), consistency=1.0)):
        net = copy.deepcopy(model)
        task = SWWAETask(net, lambdas, TermOptions(confidence=0.1, decoder_only=True))
        task.setup_ema(0.9)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            task(IMAGES, TARGET, weak)["loss"].backward()
            optimizer.step()
        ends.append({name: value for name, value in net.state_dict().items() if not name.startswith("decoder.")})
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
