# Copyright 2026 The MedGLIP authors. Licensed under the Apache License, Version 2.0.
"""Phantoms: pictures drawn by this project for modalities of which no package ships a fitting real image.

Nothing here is a patient. Each function returns the picture and the true boxes of what was drawn, and draws the same
picture every time.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .phantom_tools import Phantom, Points, blur, bounds, filled, grid, noise, spline, stroke, strokes, to_bytes


# Chest radiograph ---------------------------------------------------------------------------------------------------

CHEST_SHAPE = (512, 512)
RIGHT_LUNG: Points = [
    (196, 62), (164, 78), (128, 128), (98, 204), (80, 296), (76, 376), (110, 366), (160, 352), (204, 366), (226, 376),
    (224, 320), (216, 262), (222, 214), (228, 160), (224, 104), (214, 74),
]  # fmt: skip
LEFT_LUNG: Points = [
    (316, 60), (298, 74), (288, 108), (284, 160), (292, 206), (304, 244), (332, 292), (362, 344), (372, 376),
    (404, 374), (440, 398), (440, 320), (426, 224), (398, 140), (356, 80), (336, 64),
]  # fmt: skip
HEART: Points = [
    (236, 170), (270, 160), (290, 180), (290, 206), (312, 236), (348, 296), (368, 350), (350, 384), (290, 392),
    (226, 386), (208, 352), (206, 308), (220, 260), (226, 214),
]  # fmt: skip
TORSO: Points = [
    (200, -40), (196, 26), (120, 52), (50, 84), (8, 150), (6, 300), (40, 420), (44, 560), (468, 560), (470, 420),
    (506, 300), (504, 150), (462, 84), (392, 52), (316, 26), (312, -40),
]  # fmt: skip


def _rib_paths() -> tuple[list[Points], list[Points]]:
    """Courses of the posterior and of the anterior ribs, of both sides."""
    t = np.linspace(0, 1, 30)
    back, front = [], []
    for number in range(10):
        side_y = 96 + number * 34
        reach = np.interp(side_y, [80, 128, 204, 296, 420], [78, 136, 168, 188, 190])
        back_y = side_y - 34 - 14 * np.sin(t * np.pi * 0.9) + 34 * t**2
        front_y = side_y + (44 + 2 * number) * (1 - t) ** 0.8
        for side in (-1, 1):
            back_x = 256 + side * (16 + (reach - 16) * np.sin(t * np.pi / 2))
            front_x = 256 + side * (70 + (reach - 70) * np.sin(t * np.pi / 2))
            back.append(list(zip(back_x.tolist(), back_y.tolist(), strict=True)))
            front.append(list(zip(front_x.tolist(), front_y.tolist(), strict=True)))
    return back, front


def _ribs(shape: tuple[int, int]) -> np.ndarray:
    """Ribs as a brightness layer: hollow bands, the posterior ones brighter."""
    back, front = _rib_paths()
    layers = [
        brightness * (strokes(shape, paths, width, 1.2) - 0.45 * strokes(shape, paths, width - 6, 1.6))
        for paths, brightness, width in ((back, 1.0, 13), (front, 0.4, 12))
    ]
    return np.maximum(*layers)


def _vessels(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Lung vessels that branch away from both hila."""
    canvas = Image.new("L", (shape[1], shape[0]), 0)
    pen = ImageDraw.Draw(canvas)
    for side, hilum in ((-1, (218.0, 232.0)), (1, (298.0, 222.0))):
        for _ in range(34):
            angle = rng.uniform(-1.25, 1.25) + (np.pi if side < 0 else 0.0)
            x, y = hilum
            width = rng.uniform(2.5, 5.5)
            while width > 0.8:
                length = rng.uniform(10, 20)
                nearer = x + length * np.cos(angle), y + length * np.sin(angle)
                pen.line([(x, y), nearer], fill=round(255 * min(1.0, width / 4)), width=max(1, round(width)))
                x, y = nearer
                angle += rng.normal(0, 0.22)
                width *= rng.uniform(0.72, 0.9)
    return blur(np.asarray(canvas, dtype=np.float32) / 255, 1.2)


def _spine(shape: tuple[int, int]) -> np.ndarray:
    y, x = grid(shape)
    column = np.exp(-(((x - 256) / 19) ** 4))
    discs = 0.75 + 0.25 * np.cos(y * 2 * np.pi / 30)
    processes = 0.5 * np.exp(-(((x - 256) / 5) ** 2)) * (np.cos(y * 2 * np.pi / 30 + 1) > 0.2)
    return blur((column * discs + processes).astype(np.float32), 1.5)


def _airway(shape: tuple[int, int]) -> np.ndarray:
    """The trachea and the two main bronchi as one mask."""
    trunk = stroke(shape, [(256, -8), (256, 90), (253, 190)], 22, 2.0)
    right = stroke(shape, [(252, 182), (236, 214), (222, 236)], 15, 2.0)
    left = stroke(shape, [(253, 182), (280, 212), (298, 222)], 13, 2.0)
    return np.maximum(np.maximum(trunk, right), left)


def _abdomen(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Everything under the two domes of the diaphragm, with the air bubble of the stomach."""
    right = spline([(40, 420), (70, 382), (150, 350), (220, 376), (256, 396), (256, 560), (30, 560)])
    left = spline([(256, 398), (330, 384), (400, 372), (446, 404), (476, 440), (480, 560), (256, 560)])
    below = np.maximum(filled(shape, right, 2.5), filled(shape, left, 2.5))
    bubble = filled(shape, spline([(348, 412), (392, 398), (428, 420), (404, 446), (360, 440)]), 5.0)
    return below * (1 + 0.05 * noise(rng, shape, 60)) - 0.4 * bubble


def chest_radiograph() -> Phantom:
    """A frontal chest radiograph, (512, 512) uint8; the patient's right is on the left of the picture."""
    rng = np.random.default_rng(7)
    shape = CHEST_SHAPE
    torso = filled(shape, spline(TORSO), 5)
    right, left = filled(shape, spline(RIGHT_LUNG), 3), filled(shape, spline(LEFT_LUNG), 3)
    lungs, heart = np.maximum(right, left), filled(shape, spline(HEART), 4)
    airway, abdomen = _airway(shape), _abdomen(shape, rng)
    clavicles = np.maximum(
        stroke(shape, [(240, 88), (196, 74), (140, 76), (84, 50)], 13, 2),
        stroke(shape, [(272, 88), (318, 74), (372, 76), (428, 50)], 13, 2),
    )
    wall = filled(shape, spline([(x + (14 if x > 256 else -14), y) for x, y in RIGHT_LUNG + LEFT_LUNG[::-1]]), 9)
    density = (0.44 + 0.10 * wall) * torso + 0.04 * noise(rng, shape, 90) * torso
    density -= 0.34 * lungs * (1 - 0.9 * heart) * (1 + 0.1 * noise(rng, shape, 40))
    density += 0.24 * heart + 0.12 * _spine(shape) + 0.16 * np.maximum(abdomen, 0) + 0.10 * (1 - lungs) * abdomen
    density += 0.10 * _ribs(shape) * torso + 0.10 * clavicles + 0.12 * _vessels(rng, shape) * lungs
    density -= 0.15 * airway * torso
    density += 0.008 * lungs * noise(rng, shape, 5) + 0.012 * rng.standard_normal(shape)
    # the main bronchi end where the lungs begin; annotators' heart outline reaches from the arch to the diaphragm
    boxes = {"right lung": bounds(right), "left lung": bounds(left), "cardiomediastinum": bounds(heart)}
    boxes["airways"] = bounds(airway)
    return Phantom(to_bytes(255 * blur(np.clip(density, 0, 1) ** 0.85, 0.7)), boxes)


# Skin lesion ---------------------------------------------------------------------------------------------------------


def _hairs(rng: np.random.Generator, shape: tuple[int, int], number: int) -> np.ndarray:
    """Fine curved hairs as a mask 0..1."""
    canvas = Image.new("L", (shape[1], shape[0]), 0)
    pen = ImageDraw.Draw(canvas)
    for _ in range(number):
        x, y = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        angle, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.05)
        path = [(x, y)]
        for _ in range(rng.integers(10, 24)):
            x, y, angle = x + 7 * np.cos(angle), y + 7 * np.sin(angle), angle + bend
            path.append((x, y))
        pen.line(path, fill=200, width=2, joint="curve")
    return blur(np.asarray(canvas, dtype=np.float32) / 255, 0.7)


def _wavy_disc(
    rng: np.random.Generator, shape: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]
) -> np.ndarray:
    """Signed distance-like field of an ellipse with an uneven border: above 0 inside, 1 at the centre."""
    y, x = grid(shape)
    radius = np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1])
    return 1 - radius + 0.07 * noise(rng, shape, 45) + 0.03 * noise(rng, shape, 14)


def dermoscopy_lesion() -> Phantom:
    """A pigmented mole under a dermatoscope, (464, 640, 3) uint8."""
    rng = np.random.default_rng(11)
    shape = (464, 640)
    y, x = grid(shape)
    field = _wavy_disc(rng, shape, (330.0, 226.0), (128.0, 98.0))
    body = 1 / (1 + np.exp(-np.clip(field * 22, -40, 40)))
    core = 1 / (1 + np.exp(-np.clip((field - 0.35 + 0.1 * noise(rng, shape, 60)) * 7, -40, 40)))
    network = np.clip(0.5 + 0.5 * noise(rng, shape, 5), 0, 1) * body
    skin = np.stack([222 + 0 * x, 176 + 0 * x, 150 + 0 * x], axis=-1)
    skin += (6 * noise(rng, shape, 120) + 4 * noise(rng, shape, 18) + 3 * noise(rng, shape, 3))[..., None]
    brown, dark = np.array([140.0, 84.0, 52.0]), np.array([72.0, 42.0, 32.0])
    pigment = brown + (dark - brown) * core[..., None] - 26 * network[..., None] * (1 - 0.5 * core[..., None])
    picture = skin + (pigment - skin) * (0.92 * body)[..., None]
    picture -= 110 * _hairs(rng, shape, 9)[..., None]
    edge = np.hypot((x - 320) / 380, (y - 232) / 300)
    picture *= np.clip(1.0 - 1.6 * np.clip(edge - 0.78, 0, None), 0.1, 1)[..., None]
    largest = _largest_piece(body > 0.5)
    return Phantom(to_bytes(picture + 2 * rng.standard_normal(picture.shape)), {"skin lesion": bounds(largest)})


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    """The connected piece (4 neighbours) that holds the mask's centre of mass, as float."""
    rows, columns = np.nonzero(mask)
    piece = np.zeros_like(mask)
    piece[round(rows.mean()), round(columns.mean())] = True
    while True:
        grown = piece.copy()
        grown[1:] |= piece[:-1]
        grown[:-1] |= piece[1:]
        grown[:, 1:] |= piece[:, :-1]
        grown[:, :-1] |= piece[:, 1:]
        grown &= mask
        if grown.sum() == piece.sum():
            return piece.astype(np.float32)
        piece = grown


# Endoscopy -----------------------------------------------------------------------------------------------------------


def _shading(height: np.ndarray, light: tuple[float, float, float]) -> np.ndarray:
    """Diffuse shading of a surface given by its height in pixels."""
    slope_y, slope_x = np.gradient(height)
    length = np.sqrt(slope_x**2 + slope_y**2 + 1)
    return (-slope_x * light[0] - slope_y * light[1] + light[2]) / length / float(np.linalg.norm(light))


def endoscopy_polyp() -> Phantom:
    """A round polyp on the wall of the bowel, (480, 480, 3) uint8."""
    rng = np.random.default_rng(5)
    shape = (480, 480)
    y, x = grid(shape)
    centre, radii = (286.0, 262.0), (82.0, 74.0)
    radius = np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1]) + 0.025 * noise(rng, shape, 50)
    dome = 62 * np.sqrt(np.clip(1 - radius**2, 0, None))
    depth = np.hypot((x - 120) / 1.1, y - 110)
    folds = 15 * np.cos(depth / 24 + 0.8 * noise(rng, shape, 160)) * np.clip(depth / 260, 0.15, 1)
    wall = folds + 12 * noise(rng, shape, 150) + 0.35 * noise(rng, shape, 12)
    inside = 1 / (1 + np.exp(-np.clip((1 - radius) * 40, -40, 40)))
    surface = wall * (1 - inside) + (dome + 0.35 * wall + 0.5 * noise(rng, shape, 7)) * inside
    shade = np.clip(_shading(blur(surface, 2.5), (-0.35, -0.55, 0.9)), 0, 1)
    mucosa, flesh = np.array([214.0, 122.0, 96.0]), np.array([226.0, 108.0, 92.0])
    colour = mucosa + (flesh - mucosa) * inside[..., None] + 7 * noise(rng, shape, 30)[..., None]
    vessels = blur(np.clip(1 - np.abs(noise(rng, shape, 60)) * 9, 0, 1), 1.5) * (1 - inside)
    colour -= vessels[..., None] * np.array([4.0, 15.0, 13.0])
    falloff = np.clip(1.12 - 0.95 * np.exp(-((depth / 115) ** 2)), 0.08, 1)
    under = 1 / (1 + np.exp(-np.clip((y - centre[1]) / 14, -40, 40)))
    contact = 1 - 0.45 * np.exp(-(((radius - 1.06) / 0.10) ** 2)) * under
    picture = colour * (0.25 + 0.85 * shade * falloff * contact)[..., None] * falloff[..., None]
    shine = _highlights(rng, shape)
    picture = picture * (1 - shine[..., None]) + np.array([255.0, 250.0, 242.0]) * shine[..., None]
    picture *= _octagon(shape)[..., None]
    return Phantom(to_bytes(picture + 2 * rng.standard_normal(picture.shape)), {"polyp": bounds(inside)})


def _highlights(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """The light's reflections on wet mucosa: two on the polyp, specks on the wall."""
    canvas = Image.new("L", (shape[1], shape[0]), 0)
    pen = ImageDraw.Draw(canvas)
    spots = [(262.0, 222.0, 9.0, 5.0), (292.0, 214.0, 4.0, 3.0), (246.0, 244.0, 3.0, 4.0)]
    for _ in range(16):
        px, py = rng.normal(120, 60), rng.normal(330, 60)
        spots.append((px, py, rng.uniform(1.5, 6), rng.uniform(1, 3)))
    for px, py, a, b in spots:
        pen.ellipse([px - a, py - b, px + a, py + b], fill=255)
    return blur(np.asarray(canvas, dtype=np.float32) / 255, 0.9)


def _octagon(shape: tuple[int, int]) -> np.ndarray:
    """The picture's field behind the scope's black corners."""
    height, width = shape
    cut = 0.2
    corners = [
        (width * cut, 0), (width * (1 - cut), 0), (width, height * cut), (width, height * (1 - cut)),
        (width * (1 - cut), height), (width * cut, height), (0, height * (1 - cut)), (0, height * cut),
    ]  # fmt: skip
    return filled(shape, [(float(a), float(b)) for a, b in corners], 1.0)


# Ultrasound ----------------------------------------------------------------------------------------------------------


def _fan(shape: tuple[int, int]) -> np.ndarray:
    """The sector that a curved probe shows."""
    y, x = grid(shape)
    angle, reach = np.arctan2(x - 320, y + 150), np.hypot(x - 320, y + 150)
    return blur(((np.abs(angle) < 0.60) & (reach > 172) & (reach < 575)).astype(np.float32), 0.8)


def fetal_head() -> Phantom:
    """A fetal head in cross-section, (432, 640) uint8."""
    rng = np.random.default_rng(3)
    shape = (432, 640)
    y, x = grid(shape)
    tilt = np.deg2rad(-14)
    u = (x - 318) * np.cos(tilt) + (y - 226) * np.sin(tilt)
    v = -(x - 318) * np.sin(tilt) + (y - 226) * np.cos(tilt)
    radius = np.hypot(u / 128, v / 99) + 0.012 * noise(rng, shape, 120)
    # the beam comes from above: walls across it shine, walls along it fade
    facing = np.abs(v / 99) / (radius + 1e-6)
    skull = np.exp(-(((radius - 0.955) / 0.038) ** 2)) * (0.30 + 0.85 * facing**1.3)
    inside = 1 / (1 + np.exp(-np.clip((0.93 - radius) * 40, -40, 40)))
    midline = np.exp(-((v / 3.0) ** 2)) * (np.abs(u) < 100) * (0.7 + 0.3 * noise(rng, shape, 22))
    cavity = np.exp(-(((u - 6) / 13) ** 2 + (v / 9) ** 2)) + np.exp(-(((u + 55) / 34) ** 2 + ((v + 26) / 8) ** 2))
    brain = 0.20 + 0.06 * noise(rng, shape, 26)
    womb = 0.26 + 0.10 * noise(rng, shape, 70) + 0.06 * noise(rng, shape, 24)
    fluid = np.exp(-(((radius - 1.10) / 0.09) ** 2)) * (u < 60)
    echo = womb * (1 - inside) * (1 - 0.75 * fluid) + inside * brain * (1 - 0.8 * np.clip(cavity, 0, 1))
    echo = echo + 0.95 * skull + 0.42 * np.clip(midline, 0, 1) * inside
    speckle = np.abs(noise(rng, shape, 2.6) + 1j * noise(rng, shape, 2.6)) / 1.25
    depth = np.clip(1.1 - 0.0011 * np.hypot(x - 320, y + 150), 0.35, 1)
    picture = 255 * np.clip(echo, 0, 1.1) * (0.25 + 0.75 * speckle) * depth * _fan(shape)
    return Phantom(to_bytes(blur(picture, 0.8)), {"fetal head": bounds((radius < 1.0).astype(np.float32))})


# CT ------------------------------------------------------------------------------------------------------------------

# The patient lies on the back and is seen from the feet: the liver is on the left of the picture. HU, outline.
ORGANS: dict[str, tuple[float, Points]] = {
    "liver": (112, [(96, 250), (104, 186), (150, 142), (214, 132), (262, 148), (284, 168), (254, 196), (232, 216),
                    (222, 250), (196, 286), (168, 330), (130, 336), (104, 300)]),
    "stomach": (40, [(300, 160), (350, 146), (392, 168), (402, 208), (384, 240), (346, 232), (316, 208)]),
    "spleen": (124, [(396, 262), (418, 250), (430, 282), (422, 330), (396, 356), (380, 344), (396, 306)]),
    "right kidney": (176, [(166, 346), (188, 326), (212, 336), (218, 362), (202, 386), (178, 388), (162, 370)]),
    "left kidney": (176, [(322, 342), (346, 330), (370, 346), (374, 374), (356, 392), (332, 388), (318, 366)]),
    "aorta": (188, [(268, 292), (284, 288), (296, 300), (294, 316), (280, 322), (266, 312)]),
    "inferior vena cava": (142, [(222, 288), (242, 282), (256, 294), (252, 312), (234, 316), (220, 304)]),
    "pancreas": (98, [(254, 232), (286, 238), (330, 246), (372, 260), (372, 274), (326, 264), (282, 260), (252, 252)]),
}  # fmt: skip


def _body(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Air, skin, fat, muscle, ribs and spine in HU."""
    y, x = grid(shape)
    torso = np.hypot((x - 256) / 205, (y - 262) / 158)
    muscle = np.hypot((x - 256) / 182, (y - 264) / 136)
    hollow = np.hypot((x - 256) / 166, (y - 256) / 120)
    image = np.full(shape, -1000.0)
    image[torso < 1] = -100 + 6 * noise(rng, shape, 12)[torso < 1]
    image[(torso < 1) & (torso > 0.985)] = 20
    image[muscle < 1] = 58
    image[hollow < 1] = -92
    back = np.hypot((x - 256) / 92, (y - 374) / 38)
    image[back < 1] = 60
    vertebra = np.hypot((x - 256) / 36, (y - 344) / 27)
    image[vertebra < 1] = 180 + 40 * noise(rng, shape, 8)[vertebra < 1]
    image[(vertebra < 1) & (vertebra > 0.88)] = 480
    image[np.hypot((x - 256) / 15, (y - 384) / 12) < 1] = 30
    for dx, dy, a, b in ((-46, 378, 26, 6), (46, 378, 26, 6), (0, 410, 6, 20)):
        image[np.hypot((x - 256 - dx) / a, (y - dy) / b) < 1] = 420
    for angle in np.deg2rad([18, 48, 132, 162, 200, 228, 312, 340]):
        cx, cy = 256 + 175 * np.cos(angle), 261 + 129 * np.sin(angle)
        image[np.hypot((x - cx) / 12, (y - cy) / 8) < 1] = 430
    return image


def abdominal_ct() -> Phantom:
    """An axial slice of the upper abdomen with contrast agent, (512, 512) int16 in HU."""
    rng = np.random.default_rng(13)
    shape = (512, 512)
    image = _body(shape, rng)
    boxes = {}
    for name, (density, outline) in ORGANS.items():
        mask = filled(shape, spline(outline), 0.6)
        texture = density + 7 * noise(rng, shape, 9) + (24 * noise(rng, shape, 26) if "kidney" in name else 0)
        image = image * (1 - mask) + texture * mask
        boxes[name] = bounds(mask)
    y, x = grid(shape)
    for cx, cy, a, b in ((214, 362, 12, 9), (322, 366, 12, 9)):
        image[np.hypot((x - cx) / a, (y - cy) / b) < 1] = -40
    for cx, cy, a in ((140, 230, 5), (170, 210, 6), (190, 180, 5), (210, 230, 7), (160, 280, 5)):
        image[np.hypot((x - cx) / a, (y - cy) / (0.7 * a)) < 1] = 165
    air = (np.hypot((x - 346) / 34, (y - 160) / 14) < 1) & (filled(shape, spline(ORGANS["stomach"][1])) > 0.5)
    image[air] = -960
    for cx, cy, a in ((230, 160, 20), (300, 280, 14), (340, 290, 16), (360, 306, 12), (300, 246, 10), (420, 230, 14)):
        bowel = np.hypot((x - cx) / a, (y - cy) / (0.8 * a))
        image[(bowel < 1) & (image < 0) & (image > -300)] = 45
    table = (np.abs(y - (452 - 0.00045 * (x - 256) ** 2)) < 2.5) & (np.abs(x - 256) < 190)
    image[table] = 120
    noisy = blur(image, 0.9) + 9 * noise(rng, shape, 1.6)
    return Phantom(np.clip(np.round(noisy), -1024, 3071).astype(np.int16), boxes)
