"""Where every voxel of one image lies in another: dense registration without gradients, in a second on a CPU.

A first shift comes from :mod:`monai_hyper.networks.shift`; an affine transform and then a smooth displacement follow by
discrete optimisation, in which all displacements of a neighbourhood are tried, and a smoothed field and the best match
pull at each other until they agree; last come small steps down the slope of what is left. Images are compared by what
surrounds a voxel, not by its intensity.
Everything here can be scripted, since a generated network carries it along.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_hyper.data.coarse import reduce
from monai_hyper.networks.functional import enlarge, exporting, pad_small, vector
from monai_hyper.networks.shift import best_shift, content, largest, pooled


def voxels(size: list[int], like: Tensor) -> Tensor:
    """Indices of all voxels, ``(D, H, W, 3)``."""
    axes = [torch.arange(n, device=like.device, dtype=like.dtype) for n in size]
    return torch.stack(torch.meshgrid(axes[0], axes[1], axes[2], indexing="ij"), -1)


def read_at(volumes: Tensor, places: Tensor, size: list[int], mode: str = "zeros") -> Tensor:
    """Values at places that are given as voxel indices of a grid of ``size``, which ``volumes`` span.

    Args:
        volumes: of any resolution, ``(1, C, d', h', w')``.
        places: ``(D, H, W, 3)``.
        mode: what lies beyond the edge: "zeros", or "border" for its continuation.

    Returns:
        ``(1, C, D, H, W)``.
    """
    extent = vector(size, places)
    grid = ((places + 0.5) * 2 / extent - 1).flip(-1)[None]
    return F.grid_sample(volumes, grid, "bilinear", mode, align_corners=False)


def stretched(size: list[int], other: list[int], like: Tensor) -> Tensor:
    """Where the voxels of one grid lie in another if both span the same field of view, ``(*size, 3)``.

    Example:
        >>> stretched([4, 4, 4], [2, 2, 2], torch.zeros(()))[0, 0, 0]
        tensor([-0.2500, -0.2500, -0.2500])
    """
    return (voxels(size, like) + 0.5) * (vector(other, like) / vector(size, like)) - 0.5


def within(places: Tensor, size: list[int]) -> Tensor:
    """Which places lie on a grid of ``size``, ``(1, 1, D, H, W)`` float."""
    extent = vector(size, places)
    return ((places >= -0.5) & (places <= extent - 0.5)).all(-1).to(places.dtype)[None, None]


def after(places: Tensor, moved: Tensor) -> Tensor:
    """``places`` of voxels that were displaced first.

    Args:
        places: ``(D, H, W, 3)``; moved: where to read them, voxel indices ``(d, h, w, 3)``.

    Returns:
        ``(d, h, w, 3)``; beyond the grid the displacement of its edge goes on.
    """
    size = [places.shape[0], places.shape[1], places.shape[2]]
    displacement = (places - voxels(size, places)).permute(3, 0, 1, 2)[None]
    return read_at(displacement, moved, size, "border")[0].permute(1, 2, 3, 0) + moved


def inverse(places: Tensor, size: list[int], rounds: int = 12) -> Tensor:
    """Where the voxels of the other image lie in the first, by fixed-point iteration.

    Args:
        places: of the voxels of the first image in the other, ``(D, H, W, 3)``; size: of the other.

    Returns:
        ``(*size, 3)``.
    """
    first = [places.shape[0], places.shape[1], places.shape[2]]
    displacement = (places - voxels(first, places)).permute(3, 0, 1, 2)[None]
    target = voxels(size, places)
    found = target - displacement.mean((0, 2, 3, 4))
    for _ in range(rounds):
        found = 0.5 * found + 0.5 * (target - read_at(displacement, found, first, "border")[0].permute(1, 2, 3, 0))
    return found


def smooth(x: Tensor, side: int = 3) -> Tensor:
    """Mean over cubes of ``side`` voxels, 3 or more, ``(B, C, D, H, W)``; the edge is repeated."""
    r = side // 2
    x = F.pad(x, [r, r, r, r, r, r], mode="replicate")
    if not torch.jit.is_scripting():
        if torch.jit.is_tracing():  # one operator in an exported network
            return F.avg_pool3d(x, side, 1)
    for axis in range(3):  # shifted sums: pooling would touch every voxel of the cube
        x = x.movedim(2 + axis, 2)
        total = x[:, :, : 1 - side].clone()
        for shift in range(1, side):
            total += x[:, :, shift : shift + 1 - side] if shift + 1 < side else x[:, :, shift:]
        x = total.movedim(2, 2 + axis)
    return x.mul_(1 / side**3)


def descriptors(image: Tensor) -> Tensor:
    """What surrounds every voxel: similarities between its neighbours, whatever their intensities.

    MIND-SSC: Heinrich et al., "Towards Realtime Multimodal Fusion for Image-Guided Interventions Using
    Self-similarities", 2013, https://doi.org/10.1007/978-3-642-40811-3_24.

    Args:
        image: ``(1, 1, D, H, W)``.

    Returns:
        ``(1, 12, D, H, W)``, 0 to 1.
    """
    d, h, w = image.shape[2:]
    padded = F.pad(image, [2, 2, 2, 2, 2, 2], mode="replicate")
    near: list[Tensor] = []
    for a, b, c in [(0, 2, 2), (4, 2, 2), (2, 0, 2), (2, 4, 2), (2, 2, 0), (2, 2, 4)]:
        near.append(padded[:, :, a : a + d, b : b + h, c : c + w])
    found: list[Tensor] = []
    for i in range(6):
        for j in range(i + 1, 6):
            if i // 2 != j // 2:  # neighbours across an edge, not on opposite sides
                found.append((near[i] - near[j]).square())
    distance = smooth(torch.cat(found, 1))
    distance = distance - distance.amin(1, keepdim=True)
    spread = distance.mean(1, keepdim=True)
    middle = spread.mean() + 1e-9
    return torch.exp(-distance / spread.clamp(1e-3 * middle, 1e3 * middle))


def _boxed(x: Tensor, bounds: Tensor) -> Tensor:
    """What lies within bounds, see :func:`content`, of ``(1, 1, D, H, W)``."""
    if torch.jit.is_scripting():
        b = [int(bounds[0]), int(bounds[1]), int(bounds[2]), int(bounds[3]), int(bounds[4]), int(bounds[5])]
        return x[:, :, b[0] : b[1], b[2] : b[3], b[4] : b[5]]
    return x[:, :, bounds[0] : bounds[1], bounds[2] : bounds[3], bounds[4] : bounds[5]]


def local_correlation(first: Tensor, second: Tensor, side: int = 5) -> Tensor:
    """Correlation of two images ``(D, H, W)`` over the cube around each voxel, -1 to 1; 0 where one is flat.

    Example:
        >>> image = torch.rand(8, 8, 8)
        >>> bool((local_correlation(image, 3 - 2 * image) < -0.99).all())
        True
    """
    stack = torch.stack([first, second, first * second, first.square(), second.square()])[:, None]
    mean = F.avg_pool3d(stack, side, 1, side // 2, count_include_pad=False)[:, 0]
    covariance = mean[2] - mean[0] * mean[1]
    variance_a = (mean[3] - mean[0].square()).clamp(min=1e-3)
    variance_b = (mean[4] - mean[1].square()).clamp(min=1e-3)
    return (covariance / (variance_a * variance_b).sqrt()).clamp(-1, 1)


def _steps(reach: int, like: Tensor) -> Tensor:
    """All displacements of up to ``reach`` steps along each axis, ``(L, 3)``."""
    side = 2 * reach + 1
    return voxels([side, side, side], like).reshape(-1, 3) - reach


def _from(x: Tensor, axis: int, first: int, reach: int, stride: int) -> Tensor:
    """Every ``stride``-th voxel along an axis from the one numbered ``first`` on, as many as lie within the padding."""
    x = x.movedim(axis, 0)
    x = x[first : first - 2 * reach : stride] if first < 2 * reach else x[first::stride]
    return x.movedim(0, axis)


def _differences(reference: Tensor, padded: Tensor, shown: Tensor, reach: int, stride: int) -> Tensor:
    """Squared differences to what is padded, where it is shown, and where that is, at every displacement.

    Args:
        reference: ``(1, C, d, h, w)``; padded, shown: ``(1, C, ...)`` and ``(1, 1, ...)``, by ``reach`` voxels.

    Returns:
        ``(L, 2, d, h, w)``.
    """
    if not torch.jit.is_scripting():
        if torch.jit.is_tracing():
            return _differences_at_once(reference, torch.cat([padded, shown], 1), reach, stride)
    count, found = 2 * reach + 1, []
    for a in range(count):
        padded_a, shown_a = _from(padded, 2, a, reach, stride), _from(shown, 2, a, reach, stride)
        for b in range(count):
            padded_b, shown_b = _from(padded_a, 3, b, reach, stride), _from(shown_a, 3, b, reach, stride)
            for c in range(count):
                there, seen = _from(padded_b, 4, c, reach, stride), _from(shown_b, 4, c, reach, stride)
                found.append(torch.cat([(reference - there).square().mean(1, keepdim=True) * seen, seen], 1))
    return torch.cat(found)


def _differences_at_once(reference: Tensor, padded: Tensor, reach: int, stride: int) -> Tensor:
    """The same in few operators, which is slower, but a network that is exported operator by operator loads sooner."""
    count, (d, h, w) = 2 * reach + 1, reference.shape[2:]
    first = torch.arange(count, device=padded.device)[:, None]
    rows = (first + stride * torch.arange(h, device=padded.device)).flatten()
    lines = (first + stride * torch.arange(w, device=padded.device)).flatten()
    found = []
    for a in range(count):
        there = padded[0, :, a : a - 2 * reach : stride] if a < 2 * reach else padded[0, :, a::stride]
        there = there.index_select(2, rows).index_select(3, lines).reshape(-1, d, count, h, count, w)
        apart = (reference[0, :, :, None, :, None] - there[:-1]).square().mean(0, keepdim=True) * there[-1:]
        found.append(torch.cat([apart, there[-1:]]).permute(2, 4, 0, 1, 3, 5).reshape(count * count, 2, d, h, w))
    return torch.cat(found)


def _costs(
    fixed: Tensor, moving: Tensor, covered: Tensor, stride: int, cell: int, reach: int, outside: float = 0.12
) -> Tensor:
    """Dissimilarity of every cell of control points for every displacement, ``(L, d, h, w)``.

    Args:
        fixed, moving: descriptors on one grid; covered: what ``moving`` really shows.
        stride: every how many voxels the images are compared; cell: of so many compared voxels a side.
        outside: dissimilarity of what the other image does not show; two images of one body have about half of it.
    """
    r = reach
    padded = F.pad(moving, [r, r, r, r, r, r], mode="replicate")
    shown = F.pad(covered, [r, r, r, r, r, r])
    reference = fixed[:, :, ::stride, ::stride, ::stride].contiguous()
    found = _differences(reference, padded, shown, r, stride)
    cells = F.avg_pool3d(found, cell, ceil_mode=True, count_include_pad=False)
    share = cells[:, 1]
    return torch.where(share > 0.2, cells[:, 0] / share.clamp(min=1e-3), torch.full_like(share, outside))


def _agreed(cost: Tensor, reach: int, similarity: float = 120.0) -> Tensor:
    """Smooth displacements of least cost, in steps, ``(1, 3, d, h, w)``.

    Coupled convex optimisation: Heinrich et al., "Non-parametric Discrete Registration with Convex Optimisation", 2014,
    https://doi.org/10.1007/978-3-319-08554-8_6.

    Args:
        similarity: what dissimilarity weighs against the square of the steps to the smooth field.
    """
    steps = _steps(reach, cost)
    flat = similarity * cost.flatten(1)
    best = steps[smooth(cost[None])[0].argmin(0)].permute(3, 0, 1, 2)[None]
    best = smooth(best)
    for strength in [0.003, 0.01, 0.03, 0.1, 0.3, 1.0]:  # how match and smooth field pull at each other
        to = best[0].flatten(1)
        apart = steps.square().sum(1)[:, None] - 2 * steps @ to + to.square().sum(0)
        best = steps[(flat + strength * apart).argmin(0)].T.reshape(best.shape)
        best = smooth(smooth(best))
    return best


def _improved(fixed: Tensor, moving: Tensor, places: Tensor, size: list[int], stage: list[int]) -> Tensor:
    """One stage: displacements are searched around ``places`` and added to them.

    Args:
        fixed, moving: descriptors ``(1, 12, ...)`` of images that were averaged over ``stage[0]`` voxels a side.
        places: ``(D, H, W, 3)`` of the voxels of one image in the other, whose shape is ``size``.
        stage: averaged voxels a side; every how many of those are compared; of so many compared ones a side is a cell,
            which moves as one; how many of the averaged voxels it may move along each axis.
    """
    factor, stride, cell, reach = stage[0], stage[1], stage[2], stage[3]
    coarse = _coarser(places, factor)
    covered = within(coarse, size)
    warped = read_at(moving, coarse, size, "border")
    steps = _agreed(_costs(fixed, warped, covered, stride, cell, reach), reach)
    scale = factor * stride * cell
    shape = [places.shape[0], places.shape[1], places.shape[2]]
    return after(places, voxels(shape, places) + enlarge(steps * factor, scale, shape)[0].permute(1, 2, 3, 0))


def _slopes(x: Tensor) -> Tensor:
    """Central differences along the axes, ``(1, C, D, H, W)`` to ``(1, C, 3, D, H, W)``."""
    p = F.pad(x, [1, 1, 1, 1, 1, 1], mode="replicate")
    along = [
        p[:, :, 2:, 1:-1, 1:-1] - p[:, :, :-2, 1:-1, 1:-1],
        p[:, :, 1:-1, 2:, 1:-1] - p[:, :, 1:-1, :-2, 1:-1],
        p[:, :, 1:-1, 1:-1, 2:] - p[:, :, 1:-1, 1:-1, :-2],
    ]
    return torch.stack(along, 2) / 2


def _refined(
    fixed: Tensor, moving: Tensor, places: Tensor, size: list[int], rounds: int = 12, bold: float = 2.0
) -> Tensor:
    """Small steps down the slope of the squared difference, smooth in themselves and in their sum.

    Symmetric demons: Vercauteren et al., "Symmetric Log-Domain Diffeomorphic Registration", 2008,
    https://doi.org/10.1007/978-3-540-85988-8_90, on descriptors instead of intensities.

    Args:
        fixed, moving: descriptors ``(1, 12, ...)``; places: ``(D, H, W, 3)``; size: of the other image.
        bold: what a step is multiplied by, since smoothing shortens it.
    """
    grid = voxels([places.shape[0], places.shape[1], places.shape[2]], places)
    slopes = _slopes(fixed)
    for _ in range(rounds):
        warped = read_at(moving, places, size, "border")
        slope = (slopes + _slopes(warped)) / 2
        force = ((fixed - warped)[:, :, None] * slope).sum(1) * within(places, size)
        step = bold * force / (slope.square().sum(2).sum(1, keepdim=True) + 0.02)
        places = after(places, grid + smooth(smooth(step))[0].permute(1, 2, 3, 0))
        displacement = (places - grid).permute(3, 0, 1, 2)[None]
        displacement = (displacement + smooth(smooth(displacement))) / 2
        places = displacement[0].permute(1, 2, 3, 0) + grid
    return places


def _coarser(places: Tensor, factor: int) -> Tensor:
    return reduce(places.permute(3, 0, 1, 2)[None], factor)[0].permute(1, 2, 3, 0)


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve a positive definite system of four equations by elimination, which can be exported."""
    rows = torch.cat([matrix, right], 1).double()
    for i in range(4):
        pivot, above, below = rows[i : i + 1] / rows[i, i], rows[:i], rows[i + 1 :]
        rows = torch.cat([above - above[:, i : i + 1] * pivot, pivot, below - below[:, i : i + 1] * pivot])
    return rows[:, 4:].to(right.dtype)


def _affine(places: Tensor, every: int = 6) -> Tensor:
    """The affine transform nearest to ``places``, outliers weighing little."""
    size = [places.shape[0], places.shape[1], places.shape[2]]
    grid = voxels(size, places)
    x = grid[::every, ::every, ::every].reshape(-1, 3)
    moved = places[::every, ::every, ::every].reshape(-1, 3) - x
    middle = x.mean(0)
    rows = torch.cat([x - middle, torch.ones_like(x[:, :1])], 1)
    weight = torch.ones_like(rows[:, :1])
    solution = torch.zeros(4, 3, device=places.device, dtype=places.dtype)
    for _ in range(4):
        gram = (rows * weight).T @ rows
        stiff = 0.05 * (gram[0, 0] + gram[1, 1] + gram[2, 2]) / 3 + 1e-3
        tiny = torch.full_like(stiff, 1e-6)
        penalty = torch.stack([stiff, stiff, stiff, tiny]) * torch.eye(4, device=gram.device, dtype=gram.dtype)
        solution = _solved(gram + penalty, (rows * weight).T @ moved)
        rest = (moved - rows @ solution).norm(2.0, 1, True)
        middling = rest.flatten().sort().values[(rest.shape[0] - 1) // 2]
        weight = 1 / (1 + (rest / (middling + 1e-3)).square())
    flat = grid.reshape(-1, 3)
    return (flat + torch.cat([flat - middle, torch.ones_like(flat[:, :1])], 1) @ solution).reshape(places.shape)


def _fit(halved: Tensor, moving: Tensor, places: Tensor) -> Tensor:
    """How well a warped image fits to another that was averaged over 2 voxels a side: mean squared local correlation,
    times the root of the voxels it covers."""
    size = [moving.shape[2], moving.shape[3], moving.shape[4]]
    coarse = _coarser(places, 2)
    covered = within(coarse, size)[0, 0]
    warped = read_at(moving, coarse, size, "border")[0, 0]
    return (covered * local_correlation(warped, halved[0, 0]).square()).sum() / covered.sum().clamp(min=1).sqrt()


def _aligned(fixed: Tensor, moving: Tensor, thinnest: int = 12) -> Tensor:
    # averaged voxels a side, stride, cell and reach of every stage, see _improved; the first one is affine
    stages = [[2, 1, 3, 3], [2, 1, 3, 3], [2, 1, 2, 2], [2, 1, 2, 1], [1, 2, 2, 2]]
    d, h, w = fixed.shape[2:]
    fixed, moving = pad_small(fixed, thinnest), pad_small(moving, thinnest)
    size = [moving.shape[2], moving.shape[3], moving.shape[4]]
    shape = [fixed.shape[2], fixed.shape[3], fixed.shape[4]]
    halved = reduce(fixed, 2)
    pyramid = [[descriptors(fixed), descriptors(moving)], [descriptors(halved), descriptors(reduce(moving, 2))]]
    centred = ((vector(shape, fixed) - vector(size, fixed)) / 2).floor()
    level, found = pyramid[stages[0][0] - 1], voxels(shape, fixed)
    tried: list[Tensor] = []
    for start in [best_shift(fixed[0, 0], moving[0, 0]).to(fixed), centred]:
        tried.append(_affine(_improved(level[0], level[1], found - start, size, stages[0])))
    fits = _fit(halved, moving, tried[0]), _fit(halved, moving, tried[1])
    found = torch.where(fits[1] > fits[0], tried[1], tried[0])
    for stage in stages[1:]:
        level = pyramid[stage[0] - 1]
        found = _improved(level[0], level[1], found, size, stage)
    return _refined(pyramid[0][0], pyramid[0][1], found, size)[:d, :h, :w]


def align(fixed: Tensor, moving: Tensor, most_voxels: int = 200_000) -> Tensor:
    """Where every voxel of one image lies in another.

    Args:
        fixed, moving: images ``(1, 1, D, H, W)`` and ``(1, 1, d, h, w)``, of one spacing.
        most_voxels: larger images are averaged over 2 voxels a side.

    Returns:
        voxel indices in ``moving``, ``(D, H, W, 3)``; beyond the content of ``fixed``, where it shows nothing, the
        displacement of its edge goes on.

    Example:
        >>> image = F.avg_pool3d(torch.rand(1, 1, 34, 34, 34), 5, 1)
        >>> places = align(image, image[:, :, 3:])
        >>> shift = (places - voxels([30, 30, 30], image))[10:20].mean((0, 1, 2))
        >>> bool((shift - torch.tensor([-3.0, 0, 0])).abs().max() < 0.3)
        True
    """
    with torch.no_grad():
        a, b = content(fixed[0, 0]), content(moving[0, 0])
        first, second = _boxed(fixed, a).float(), _boxed(moving, b).float()
        many = largest([first.numel(), second.numel()]) // (most_voxels + 1)
        factor = 1 + 2 * many // (many + 1)  # 2 if there are too many, else 1
        found = _finer(_aligned(_coarse(first, factor), _coarse(second, factor)), factor, first.shape[2:])
        shape = [fixed.shape[2], fixed.shape[3], fixed.shape[4]]
        return after(found, voxels(shape, found) - a[::2].to(found)) + b[::2].to(found)


def unexplained(image: Tensor, other: Tensor, places: Tensor) -> Tensor:
    """What an aligned image leaves of another, by descriptors: the mean squared difference, relative to the variance.

    Args:
        image, other: ``(1, 1, D, H, W)`` and ``(1, 1, d, h, w)``.
        places: where the voxels of ``image`` lie in ``other``, ``(D, H, W, 3)``.

    Returns:
        a number: 0 where the two are the same, 1 where the mean descriptor would explain as much as the other image.
    """
    first = descriptors(image)
    second = read_at(descriptors(other), places, [other.shape[2], other.shape[3], other.shape[4]], "border")
    rest = (first - second).square().mean((0, 2, 3, 4)).sum()
    return rest / first.var((0, 2, 3, 4)).sum().clamp(min=1e-9)


def _coarse(x: Tensor, factor: int) -> Tensor:
    """Mean over cubes of voxels of an image ``(1, 1, D, H, W)``."""
    if not torch.jit.is_scripting():
        if torch.jit.is_tracing():
            return pooled(x[0, 0], factor)[None, None]
    return x if factor == 1 else pooled(x[0, 0], factor)[None, None]


def _finer(places: Tensor, factor: int, size: list[int]) -> Tensor:
    """Places between two images that were averaged over ``factor`` voxels a side, for the images themselves."""
    if not exporting() and factor == 1:
        return places
    return (after(places, (voxels(size, places) + 0.5) / factor - 0.5) + 0.5) * factor - 0.5
