"""Label maps and real images of the cases of planned tasks, at the places where they look; torch, all cases at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_hyper.synthesis.blocks import Shelf, bent, blobs, changed, put
from monai_hyper.synthesis.geometry import sample
from monai_hyper.synthesis.morphology import LAYERS
from monai_hyper.synthesis.plans import BODY, FIRST_ORGAN, LESION, MOST_LESIONS, WALL, Organs, Plan
from monai_hyper.synthesis.sources import Subject

VALUES = 256
"""Label values that are told apart."""


def scene(plans: Sequence[Plan], points: Tensor, shelf: Shelf, generator: torch.Generator) -> Tensor:
    """What lies where: values of the label maps, of structures put together, and of lesions.

    Args:
        points: of all cases of all tasks in mm, ``(T * C, 3, D, H, W)``.

    Returns:
        ``(T * C, 1, D, H, W)`` uint8.
    """
    cases = len(points) // len(plans)
    values = torch.zeros(len(points), 1, *points.shape[2:], dtype=torch.uint8, device=points.device)
    whole, joined = (
        _where(plans, cases, lambda p: p.organs is None),
        _where(plans, cases, lambda p: p.organs is not None),
    )
    if whole:
        subjects = [held for plan in plans for held in plan.subjects]
        values[whole] = gather(subjects, points[whole], shelf)
    if joined:
        values[joined] = put_together([p for p in plans if p.organs is not None], points[joined], shelf, generator)
    ill = _where(plans, cases, lambda p: p.lesions is not None)
    if ill:
        lesions = [p for p in plans if p.lesions is not None]
        values[ill] = with_lesions(lesions, values[ill], points[ill], shelf, generator)
    return values


def _where(plans: Sequence[Plan], cases: int, chosen) -> list[int]:
    """Numbers of the volumes of some tasks."""
    return [task * cases + case for task, plan in enumerate(plans) if chosen(plan) for case in range(cases)]


def gather(subjects: Sequence[Subject], points: Tensor, shelf: Shelf) -> Tensor:
    """Label values of subjects, the nearest voxel's, 0 outside of them.

    Args:
        points: in mm from the first voxel, ``(B, 3, D, H, W)``.

    Returns:
        ``(B, 1, D, H, W)`` uint8.
    """
    found = torch.empty(len(points), 1, *points.shape[2:], dtype=torch.uint8, device=points.device)
    for held, rows in _distinct(subjects):
        index, inside = 0, True
        for axis, (side, spacing) in enumerate(zip(held.labels.shape, held.spacing.tolist())):
            nearest = (points[rows, axis] / spacing).round_()
            index = index * side + nearest.clamp(0, side - 1).int()
            inside = (nearest >= 0) & (nearest < side) & inside
        values = shelf.here(held.labels).flatten().index_select(0, index.flatten()).view(index.shape)
        found[rows, 0] = values * inside
    return found


def gather_images(subjects: Sequence[Subject], points: Tensor, shelf: Shelf) -> Tensor:
    """Intensities of subjects, linearly interpolated; beyond the border they continue. See :func:`gather`."""
    found = torch.empty(len(points), 1, *points.shape[2:], device=points.device)
    for held, rows in _distinct(subjects):
        image = shelf.here(held.image)
        middle = (torch.tensor(image.shape, device=points.device) - 1) / 2
        at = points[rows].permute(0, 2, 3, 4, 1) / held.spacing.to(points.device) - middle
        found[rows] = sample(image.expand(len(rows), 1, *image.shape), at)
    return found


def _distinct(subjects: Sequence[Subject]) -> list[tuple[Subject, list[int]]]:
    """Every subject once, with the numbers of the cases that show it."""
    rows: dict[int, tuple[Subject, list[int]]] = {}
    for number, held in enumerate(subjects):
        rows.setdefault(id(held), (held, []))[1].append(number)
    return list(rows.values())


def put_together(plans: Sequence[Plan], points: Tensor, shelf: Shelf, generator: torch.Generator) -> Tensor:
    """Bodies of single structures; what is wanted lies on top of the others. See :func:`scene`."""
    bodies = [plan.organs for plan in plans]
    parts = points.split(len(points) // len(bodies))
    inside = torch.cat([_inside(organs, part) for organs, part in zip(bodies, parts)])
    endless = torch.tensor([organs.body is None for organs in bodies], device=points.device)
    endless = endless.repeat_interleave(len(parts[0])).view(-1, 1, 1, 1, 1)
    values = (inside & ~endless).to(torch.uint8) * BODY
    for slot in reversed(range(max(len(organs.values) for organs in bodies))):
        chosen = [t for t, organs in enumerate(bodies) if slot < len(organs.values)]
        blocks = _slot_blocks([bodies[t] for t in chosen], slot, shelf, generator)
        cases = len(bodies[0].subjects)
        rows = [t * cases + c for t in chosen for c in range(cases)]
        matrix, shift = (
            _stacked([getattr(bodies[t], n)[:, slot] for t in chosen], points) for n in ("matrix", "shift")
        )
        shown = put(blocks, matrix, shift, points[rows])
        values[rows] = values[rows].masked_fill_(shown & inside[rows], FIRST_ORGAN + slot)
    return values


def _inside(organs: Organs, points: Tensor) -> Tensor:
    """Where the body is, everywhere if there is no end of it, ``(C, 1, D, H, W)`` bool."""
    if organs.body is None:
        return torch.ones(len(points), 1, *points.shape[2:], dtype=torch.bool, device=points.device)
    matrix, shift = (torch.from_numpy(x).to(points) for x in organs.body)
    at = torch.baddbmm(shift[..., None], matrix, points.flatten(2))
    return (at.square().sum(1, keepdim=True) < 1).view(len(points), 1, *points.shape[2:])


def _slot_blocks(bodies: list[Organs], slot: int, shelf: Shelf, generator: torch.Generator) -> Tensor:
    """The blocks of one slot of all cases, changed and bent, ``(B, 1, SIDE, SIDE, SIDE)`` float."""
    cases = len(bodies[0].subjects)
    found = [shelf.block(row[slot], organs.values[slot]) for organs in bodies for row in organs.subjects]
    blocks = torch.stack(found)[:, None].bool()
    blocks = changed(blocks, [organs.changes[slot] for organs in bodies for _ in range(cases)])
    bend = torch.tensor([organs.bend for organs in bodies], device=blocks.device).repeat_interleave(cases)
    return bent(blocks, bend, generator)


def _stacked(arrays: list, like: Tensor) -> Tensor:
    return torch.cat([torch.from_numpy(x) for x in arrays]).to(like)


def with_lesions(
    plans: Sequence[Plan], values: Tensor, points: Tensor, shelf: Shelf, generator: torch.Generator
) -> Tensor:
    """Put lesions about random places of the organ of every case. See :func:`scene`.

    They end where the organ ends, or else where all that is labelled ends.
    """
    cases = len(values) // len(plans)
    organ = class_labels(values, [plan.classes for plan in plans]) > 0
    counts = torch.cat([torch.from_numpy(plan.lesions.counts) for plan in plans])
    whole = torch.tensor([not plan.lesions.inside for plan in plans], device=values.device).repeat_interleave(cases)
    allowed = organ | (whole.view(-1, 1, 1, 1, 1) & (values > 0))
    result = values.clone()
    for number in range(MOST_LESIONS):
        rows = torch.nonzero(counts > number).flatten().tolist()
        if rows:
            shown = _lesion(plans, number, rows, organ[rows], points[rows], shelf, generator) & allowed[rows]
            result[rows] = result[rows].masked_fill_(shown, LESION)
    return result


def _lesion(plans, number: int, rows: list[int], organ: Tensor, points: Tensor, shelf: Shelf, generator) -> Tensor:
    """One lesion in each of some cases, ``(B, 1, D, H, W)`` bool."""
    cases = len(plans[0].lesions.counts)
    mine = [(plans[row // cases].lesions, row % cases) for row in rows]
    chance = torch.rand(organ.shape, generator=generator, device=organ.device) * organ
    at = chance.flatten(1).argmax(1)
    middle = points.flatten(2).gather(2, at.view(-1, 1, 1).expand(-1, 3, 1))[..., 0]
    matrix = torch.stack([torch.from_numpy(lesions.matrix[case, number]) for lesions, case in mine]).to(points)
    shift = -torch.bmm(matrix, middle[..., None])[..., 0]
    masks = blobs(len(rows), generator)
    for row, (lesions, case) in enumerate(mine):
        if lesions.numbers[case, number] >= 0:
            masks[row, 0] = shelf.lesion(int(lesions.numbers[case, number])).bool()
    strength = torch.full((len(rows),), 1.5, device=points.device)
    return put(bent(masks, strength, generator), matrix, shift, points)


def class_labels(values: Tensor, classes: Sequence[list[list[int]]]) -> Tensor:
    """Class numbers for values of scenes, ``(T * C, 1, D, H, W)`` uint8.

    Args:
        classes: of every task, the values of each class.
    """
    table = torch.zeros(len(classes), VALUES, dtype=torch.uint8)
    for task, members in enumerate(classes):
        for index, each in enumerate(members):
            table[task, each] = index + 1
    return look_up(values, table.to(values.device))


def look_up(values: Tensor, table: Tensor) -> Tensor:
    """Replace values by those of a table.

    Args:
        values: ``(B, 1, D, H, W)`` uint8; table: one for every volume or for equal shares of them, ``(b, VALUES)``.
    """
    share = len(values) // len(table)
    first = torch.arange(len(table), device=values.device, dtype=torch.int32).repeat_interleave(share) * VALUES
    index = values.flatten(1).int() + first[:, None]
    return table.flatten().index_select(0, index.flatten()).view(values.shape)


def layered(labels: Tensor, points: Tensor, plans: Sequence[Plan], directions: Tensor) -> Tensor:
    """What tasks ask for instead of whole structures: one side of a plane, or a layer. See :class:`Plan`.

    Args:
        labels: ``(T * C, 1, D, H, W)``; directions: normals and shares of the planes, ``(T, 4)``.
    """
    cases = len(labels) // len(plans)
    for task, plan in enumerate(plans):
        rows = slice(task * cases, (task + 1) * cases)
        if plan.layer == "split":
            labels[rows] = labels[rows] * _one_side(plan, points[rows], directions[task])
        elif plan.layer in LAYERS:
            labels[rows] = LAYERS[plan.layer](labels[rows] > 0, plan.thickness)
    return labels


def _one_side(plan: Plan, points: Tensor, direction: Tensor) -> Tensor:
    """Where the structure of every case lies beyond a plane that cuts all of them alike."""
    middle, extent = torch.from_numpy(plan.middle).to(points), torch.from_numpy(plan.extent).to(points)
    scaled = direction[:3] / extent
    height = torch.bmm(scaled[:, None], points.flatten(2) - middle[..., None])
    return (height > direction[3]).view(len(points), 1, *points.shape[2:])


def with_walls(values: Tensor, labels: Tensor, seen: Sequence[bool]) -> Tensor:
    """Scenes where the layer that a task asks for differs from what it is a layer of.

    Args:
        seen: for which tasks.
    """
    cases = len(values) // len(seen)
    chosen = torch.tensor(seen, device=values.device).repeat_interleave(cases).view(-1, 1, 1, 1, 1)
    return torch.where(chosen & (labels > 0), WALL, values).to(torch.uint8)
