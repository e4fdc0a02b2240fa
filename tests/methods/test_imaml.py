"""iMAML: the implicit gradient is the exact one where that is known."""

import pytest
import torch
from torch.testing import assert_close

from monai_hyper.data.support import SupportSet
from monai_hyper.methods.imaml import IMamlLearner, implicit_gradient
from monai_hyper.methods.maml import support_loss
from monai_hyper.methods.meta import binary_loss, examples_of
from monai_hyper.networks.functional import bind
from monai_hyper.synthesis.tasks import Episode

SIZE = 12
STRENGTH = 0.7


@pytest.fixture
def quadratic() -> tuple[torch.Tensor, ...]:
    """Inner loss ``phi A phi / 2 - b phi``, outer loss ``|phi - target|^2 / 2``, initial weights."""
    root = torch.randn(SIZE, SIZE, dtype=torch.float64)
    return root @ root.T / SIZE, *torch.randn(3, SIZE, dtype=torch.float64)


def _solution(matrix, vector, theta):
    """The minimum of the inner loss plus ``STRENGTH / 2 |phi - theta|^2``."""
    return torch.linalg.solve(matrix + STRENGTH * torch.eye(SIZE, dtype=torch.float64), vector + STRENGTH * theta)


def test_the_implicit_gradient_of_a_quadratic_problem_is_exact(quadratic):
    matrix, vector, target, theta = quadratic
    theta.requires_grad_()
    (exact,) = torch.autograd.grad((_solution(matrix, vector, theta) - target).square().sum() / 2, theta)
    phi = _solution(matrix, vector, theta.detach()).requires_grad_()
    (outer,) = torch.autograd.grad((phi - target).square().sum() / 2, phi)
    (slope,) = torch.autograd.grad(phi @ matrix @ phi / 2 - vector @ phi, phi, create_graph=True)

    def hessian_product(v):
        return torch.autograd.grad(slope, phi, v, retain_graph=True)[0]

    assert_close(implicit_gradient(outer, hessian_product, STRENGTH, SIZE + 2), exact, rtol=1e-8, atol=1e-10)
    errors = [
        float((implicit_gradient(outer, hessian_product, STRENGTH, n) - exact).norm()) for n in (0, 1, 3, 6, SIZE)
    ]
    assert errors == sorted(errors, reverse=True) and errors[0] > 1e-2


def test_a_strong_pull_to_the_initial_weights_gives_the_first_order_gradient():
    gradient, matrix = torch.randn(SIZE), torch.randn(SIZE, SIZE)
    assert_close(implicit_gradient(gradient, lambda v: (matrix + matrix.T) @ v, 1e7, 5), gradient, rtol=1e-4, atol=1e-4)


def test_negative_curvature_ends_the_solver_at_what_it_has():
    gradient = torch.tensor([1.0, 0.0])
    assert torch.equal(implicit_gradient(gradient, lambda v: -5 * v, 1.0, 5), gradient)
    gradient, hessian = torch.tensor([1.0, 0.1]), torch.diag(torch.tensor([1.0, -30.0]))
    found = implicit_gradient(gradient, lambda v: hessian @ v, 1.0, 5)
    assert bool(torch.isfinite(found).all()) and float(found @ gradient) > 0


def test_nothing_to_solve_for_gives_nothing():
    zero = torch.zeros(SIZE)
    assert torch.equal(implicit_gradient(zero, lambda v: v, 1.0, 5), zero)


@pytest.fixture
def episode() -> Episode:
    labels = torch.zeros(4, 1, 16, 16, 16, dtype=torch.long)
    labels[:, :, 4:11, 4:12, 5:11] = 1
    images = labels + 0.3 * torch.randn(labels.shape)
    return Episode(SupportSet(images[:2], labels[:2]), images[2:], labels[2:], "made")


def _learner(**settings) -> IMamlLearner:
    return IMamlLearner(channels=(4, 4, 4, 4), thin=2, **settings)


def test_the_inner_problem_is_solved_near_the_initial_weights(episode):
    examples = examples_of(episode.support, 0)
    distances, losses = [], []
    for strength in (0.1, 20.0):
        torch.manual_seed(0)
        learner = _learner(strength=strength, inner_rate=0.04)
        start = {name: p.detach() for name, p in learner.body.named_parameters()}
        weights = learner.solve(examples, 12)
        distances.append(sum(float((w - start[n]).square().sum()) for n, w in weights.items()))
        losses.append(float(support_loss(learner.body, weights, examples[0])))
    assert distances[0] > 3 * distances[1] > 0
    assert losses[0] < losses[1] < float(support_loss(learner.body, start, examples[0]))


def test_the_loss_carries_the_gradient_that_conjugate_gradients_found(episode):
    learner = _learner(inner_steps=3, solver_steps=0)
    loss, logits = learner.episode_loss(episode)
    loss.backward()
    weights = {n: w.requires_grad_() for n, w in learner.solve(examples_of(episode.support, 0), 3).items()}
    expected = bind(learner.body, weights)(episode.images)
    outer = binary_loss(expected, episode.labels.float())
    assert_close(loss.detach(), outer.detach())
    assert_close(logits[:, 1:], expected.detach())
    for (name, parameter), g in zip(
        learner.body.named_parameters(), torch.autograd.grad(outer, list(weights.values()))
    ):
        assert_close(parameter.grad, g, msg=name)


def test_curvature_changes_the_gradient(episode):
    gradients = []
    for steps in (0, 3):
        torch.manual_seed(0)
        learner = _learner(inner_steps=3, solver_steps=steps)
        learner.episode_loss(episode)[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters()]))
    assert bool(torch.isfinite(gradients[1]).all()) and not torch.allclose(*gradients, rtol=1e-2)
