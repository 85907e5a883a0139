"""An image to paint on, as HTML and JavaScript for the page, and what has been painted as a mask.

The value is text both ways: a data URL of the image goes to the browser, "mask:" with that of the mask comes back.
"""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image

MASK = "mask:"
DATA = "data:image/png;base64,"
SIDE = 512
"""Pixels of the longer side of what is painted on."""

TEMPLATE = """<canvas width="512" height="160" aria-label="Paint here"></canvas><button type="button">Clear</button>"""
STYLE = """
canvas {width: 100%; touch-action: none; cursor: crosshair; border-radius: 8px; background: #8882}
button {padding: 4px 12px; border: 1px solid #8888; border-radius: 6px}
"""
SCRIPT = """
const canvas = () => element.querySelector('canvas');
const mask = document.createElement('canvas');
let loaded = null, last = null;
function draw() {
    if (!loaded) return;
    const shown = canvas(), pen = shown.getContext('2d');
    shown.width = mask.width; shown.height = mask.height;
    pen.drawImage(loaded, 0, 0, mask.width, mask.height);
    pen.globalAlpha = 0.7; pen.drawImage(mask, 0, 0);
}
function take() {
    if (!(props.value || '').startsWith('data:')) return;
    const image = new Image();
    image.onload = () => {
        const scale = SIDE / Math.max(image.width, image.height);
        mask.width = Math.max(1, Math.round(image.width * scale));
        mask.height = Math.max(1, Math.round(image.height * scale));
        loaded = image; draw();
    };
    image.src = props.value;
}
function give() {
    props.value = 'mask:' + mask.toDataURL('image/png');
    setTimeout(draw);
}
function paint(event) {
    const box = canvas().getBoundingClientRect(), pen = mask.getContext('2d');
    const x = (event.clientX - box.left) * mask.width / box.width;
    const y = (event.clientY - box.top) * mask.height / box.height;
    pen.strokeStyle = '#ff00c8'; pen.lineCap = 'round'; pen.lineWidth = SIDE / 10;
    pen.beginPath(); pen.moveTo(...(last || [x, y])); pen.lineTo(x, y); pen.stroke();
    last = [x, y]; draw();
}
element.addEventListener('pointerdown', event => {
    if (event.target !== canvas() || !loaded) return;
    event.preventDefault(); canvas().setPointerCapture(event.pointerId); paint(event);
});
element.addEventListener('pointermove', event => { if (last) paint(event); });
for (const end of ['pointerup', 'pointercancel'])
    element.addEventListener(end, () => { if (last) { last = null; give(); } });
element.addEventListener('click', event => {
    if (event.target.tagName !== 'BUTTON' || !loaded) return;
    mask.width = mask.width; give();
});
watch('value', take); take();
""".replace("SIDE", str(SIDE))


def to_paint_on(image: Image.Image | None) -> str:
    """The image as the browser takes it, "" for none."""
    if image is None:
        return ""
    small, file = image.convert("RGB"), io.BytesIO()
    small.thumbnail((SIDE, SIDE))
    small.save(file, "PNG")
    return DATA + base64.b64encode(file.getvalue()).decode()


def painted(value: str | None, size: tuple[int, int]) -> Image.Image:
    """What has been painted -> a mask of the size (W, H), white where something is.

    Raises:
        ValueError: when nothing has been painted, or the value is no mask.
    """
    if not value or not value.startswith(MASK + DATA):
        raise ValueError("nothing is painted on the image; paint over what is to change")
    try:
        with Image.open(io.BytesIO(base64.b64decode(value[len(MASK + DATA) :])), formats=["PNG"]) as drawn:
            if max(drawn.size) > SIDE:
                raise ValueError(f"the mask has a side of {max(drawn.size)} pixels; it is at most {SIDE}")
            return drawn.convert("RGBA").getchannel("A").point([0] + [255] * 255).resize(size, 0)
    except (Image.UnidentifiedImageError, binascii.Error) as error:
        raise ValueError("what is painted cannot be read; clear it, and paint again") from error
