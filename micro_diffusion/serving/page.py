"""The page to try runs in a browser, of Gradio: a form, images while they are generated, and their recipes."""

from __future__ import annotations

import hmac
import html
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, NamedTuple
from uuid import uuid4

import gradio as gr  # pyright: ignore[reportMissingImports]
import torch
from PIL import Image

from micro_diffusion.diffusion.known_region import REGIONS
from micro_diffusion.generation.frames import save_moving
from micro_diffusion.generation.pipeline import Pipeline
from micro_diffusion.generation.recipe import Recipe, written
from micro_diffusion.generation.samplers import option_names
from micro_diffusion.sampling.image_file import save_image
from micro_diffusion.serving.following import followed
from micro_diffusion.serving.form import IMAGE, MASK, PAINTED, STARTS, WAY, Form
from micro_diffusion.serving.limits import Limits
from micro_diffusion.serving.models import Models, class_names
from micro_diffusion.serving.painting import SCRIPT, STYLE, TEMPLATE, to_paint_on

OWN = "the run's own"
NO_PROMPT = "no prompt"
KEPT = 60
"""Images that one visitor finds again below the newest ones."""
DAY = 24 * 3600
FILE = 20 << 20
"""Most bytes of an image to start from."""
CSS = """
footer {display: none !important}
.gradio-container {max-width: 1200px !important}
.grid-wrap {min-height: 0 !important; height: auto !important}
.grid-container {grid-template-columns: repeat(3, minmax(0, 1fr)) !important}
"""


class Shown(NamedTuple):
    """image: a PNG or GIF with its recipe, or what there was of it when it was stopped. said: the recipe."""

    image: str | Image.Image
    said: str

    @property
    def is_finished(self) -> bool:
        """Whether there is a file."""
        return isinstance(self.image, str)


class Page:
    """Form and images.

    Args:
        pipelines: by the name of their run; the first is chosen at the beginning.
        limits: of what one visitor may ask; `waiting` counts requests here.
    """

    def __init__(self, pipelines: Mapping[str, Pipeline], *, limits: Limits) -> None:
        self.models, self.limits = Models(pipelines), limits
        self._folder = TemporaryDirectory(prefix="micro_diffusion_page_")
        self._network = Lock()  # one image after another, also when somebody has stopped in the middle of one
        with gr.Blocks(title="micro-diffusion", analytics_enabled=False, delete_cache=(3600, DAY)) as self.blocks:
            self._build()
        self.blocks.queue(max_size=limits.waiting, default_concurrency_limit=1, api_open=False)

    def launch(self, host: str, port: int, token: str | None) -> None:
        """Serve the page until somebody interrupts; with a token, people log in with it as their password."""

        def knows(_: str, password: str) -> bool:
            return token is not None and hmac.compare_digest(password.encode(), token.encode())

        self.blocks.launch(
            server_name=host,
            server_port=port,
            auth=None if token is None else knows,
            auth_message="Any name will do; the password is the token.",
            max_file_size=FILE,
            footer_links=[],
            css=CSS,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            share=False,
            ssr_mode=False,
            quiet=True,
        )

    def _build(self) -> None:
        limits = self.limits
        gr.Markdown("# micro-diffusion")
        self.kept, self.chosen = gr.State([], time_to_live=DAY, delete_callback=_forget), gr.State(0)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                names = list(self.models)
                self.run = gr.Dropdown(names, value=names[0], label="Run", visible=len(names) > 1)
                self.prompt = gr.Textbox("", label="Prompt", lines=2, max_length=limits.prompt)
                self.kind = gr.Dropdown([], label="Class")
                self.button = gr.Button("Generate", variant="primary")
                self.stop = gr.Button("Stop", visible=False)
                self.start = gr.Radio(STARTS, value=STARTS[0], label="Start from")
                self._build_starts()
                with gr.Row():
                    self.count = gr.Slider(1, limits.images, 1, step=1, label="Images", min_width=140)
                    self.seed = gr.Textbox("", label="Seed", placeholder="a new one", max_lines=1, min_width=140)
                self._build_details()
            with gr.Column(scale=3, min_width=320):
                self.status = gr.Markdown("Press *Generate*.")
                self.gallery = gr.Gallery(
                    label="Images",
                    columns=3,
                    fit_columns=False,
                    object_fit="contain",
                    height="auto",
                    format="png",
                    buttons=["download"],
                )
                self.again = gr.Button("Start from this image", size="sm", visible=False)
                self.recipe = gr.Textbox(
                    label="Recipe", elem_id="recipe", lines=4, max_lines=12, buttons=["copy"], visible=False
                )
        self._connect()

    def _build_starts(self) -> None:
        self.image = gr.Image(type="pil", label="Image", sources=["upload", "clipboard"], height=260, visible=False)
        self.strength = gr.Slider(0.05, 1, 0.6, step=0.05, label="Strength of the change", visible=False)
        self.region = gr.Dropdown([PAINTED, *REGIONS], label="What changes", visible="hidden")
        self.painting = gr.HTML(
            html_template=TEMPLATE, css_template=STYLE, js_on_load=SCRIPT, label="Paint over what is to change",
            show_label=True, container=True, visible="hidden",
        )  # fmt: skip
        with gr.Column(visible=False) as self.on_way:
            self.to_prompt = gr.Textbox("", label="To the prompt", max_length=self.limits.prompt)
            self.to_kind = gr.Dropdown([], label="To the class")
            self.to_seed = gr.Textbox("", label="To the seed", placeholder="the same", max_lines=1)

    def _build_details(self) -> None:
        with gr.Accordion("Details", open=False):
            self.negative = gr.Textbox("", label="Negative prompt", max_length=self.limits.prompt)
            self.guidance = gr.Slider(0, 15, 3, step=0.1, label="Guidance scale")
            self.steps = gr.Slider(1, self.limits.steps, 18, step=1, label="Steps")
            self.rescale = gr.Slider(0, 1, 0, step=0.05, label="Guidance rescale", info="against burnt colours")
            self.sampler = gr.Dropdown([OWN, *option_names("sampler")], label="Sampler")
            self.levels = gr.Dropdown([OWN, *option_names("levels")], label="Noise levels")
            self.weaker = gr.Dropdown([NO_PROMPT, *self.models], label="Guide away from", visible=len(self.models) > 1)
            with gr.Row():
                self.width = gr.Number(precision=0, minimum=1, maximum=self.limits.side, label="Width", min_width=100)
                self.height = gr.Number(precision=0, minimum=1, maximum=self.limits.side, label="Height", min_width=100)

    def _connect(self) -> None:
        """What follows what; events that only this page has are not offered as an API."""
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.fields = {
            "start": self.start, "prompt": self.prompt, "negative_prompt": self.negative, "seed": self.seed,
            "count": self.count, "steps": self.steps, "guidance_scale": self.guidance, "height": self.height,
            "width": self.width, "image": self.image, "strength": self.strength, "painting": self.painting,
            "to_prompt": self.to_prompt, "to_seed": self.to_seed, "region": self.region,
            "guidance_rescale": self.rescale,
        }  # fmt: skip
        of_run = [self.prompt, self.kind, self.to_prompt, self.to_kind, self.negative, self.guidance, self.steps]
        of_run += [self.width, self.height]
        gr.on([self.blocks.load, self.run.change], self._own_values, self.run, of_run, **private)
        self.start.change(
            lambda start, region: [
                gr.update(visible=start in (IMAGE, MASK)),
                gr.update(visible=start == IMAGE),
                gr.update(visible=True if start == MASK else "hidden"),
                _paints(start, region),
                gr.update(visible=start == WAY),
            ],
            [self.start, self.region],
            [self.image, self.strength, self.region, self.painting, self.on_way],
            **private,
        )
        self.region.input(_paints, [self.start, self.region], self.painting, **private)
        self.image.change(to_paint_on, self.image, self.painting, **private)
        outcome = [self.gallery, self.kept, self.chosen, self.recipe, self.status, self.again, self.stop]
        asked = {*self.fields.values(), self.run, self.kind, self.to_kind, self.kept}
        asked |= {self.sampler, self.levels, self.weaker}
        works = self.button.click(self._generate, asked, outcome, **private)
        works.failure(lambda: [gr.update(visible=False), ""], None, [self.stop, self.status], **private)
        stopped = [gr.update(visible=False), "stopped"]
        self.stop.click(lambda: stopped, None, [self.stop, self.status], cancels=[works], **private)
        self.gallery.select(_chosen, self.kept, [self.chosen, self.recipe], **private)
        self.again.click(_start_from, [self.kept, self.chosen, self.start], [self.image, self.start], **private)

    def _own_values(self, run: str) -> list[Any]:
        """Of the fields `of_run`: what the run generates by itself."""
        pipeline = self.models[run]
        own, classes = pipeline.run.prompts, class_names(pipeline)
        speaks = not classes and pipeline.run.text_encoder.name != "none"
        kind = gr.update(choices=classes, value=classes[0] if classes else None, visible=bool(classes))
        height, width = pipeline.resolution
        return [
            gr.update(value=own.captions[0] if speaks else "", visible=speaks),
            kind,
            gr.update(value="", visible=speaks),
            kind,
            gr.update(visible=speaks or bool(classes)),
            own.guidance_scale,
            min(pipeline.tensors.sampler.steps, self.limits.steps),
            width,
            height,
        ]

    def _generate(self, values: dict[Any, Any]) -> Iterator[list[Any]]:
        """Of `outcome`, again and again while images are generated."""
        earlier, begun = values[self.kept], time.monotonic()
        yield [*[gr.skip()] * 4, "waiting for the network", gr.skip(), gr.update(visible=True)]
        try:
            form = self._form(values)
            pipeline = self._pipeline(values)
            recipe, given = form.recipe(pipeline, self.limits)

            def make(on_preview: Any) -> list[Image.Image]:
                with self._network:
                    return pipeline.make(recipe, **given, batch_size=self.limits.batch_size, on_preview=on_preview)

            for said, images in followed(make):
                if said:
                    new = [Shown(image, f"not finished: {said}") for image in images]
                else:
                    new = self._saved(images, recipe, pipeline, moves=form.start == WAY)
                kept = [*new, *earlier]
                said = said or f"{len(images)} image{'s' * (len(images) > 1)} in {time.monotonic() - begun:.1f} s"
                yield [*_seen(kept[:KEPT]), said, gr.update(visible=True), gr.update(visible=not new[0].is_finished)]
            _forget(kept[KEPT:])
        except (ValueError, torch.OutOfMemoryError) as error:
            small = "the memory of the GPU is too small for this; ask for fewer or smaller images"
            said = str(error) if isinstance(error, ValueError) else small
            raise gr.Error(html.escape(said), title="Not possible", print_exception=False) from error

    def _pipeline(self, values: dict[Any, Any]) -> Pipeline:
        fields = {"sampler": self.sampler, "levels": self.levels, "weaker": self.weaker}
        chosen = {name: values[field] for name, field in fields.items() if values[field] not in (OWN, NO_PROMPT)}
        return self.models.pipeline(values[self.run], **chosen)

    def _form(self, values: dict[Any, Any]) -> Form:
        filled = {name: values[field] for name, field in self.fields.items()}
        if class_names(self.models[values[self.run]]):
            filled |= {"prompt": values[self.kind] or "", "to_prompt": values[self.to_kind] or ""}
        return Form(**filled)

    def _saved(self, images: list[Image.Image], recipe: Recipe, pipeline: Pipeline, *, moves: bool) -> list[Shown]:
        """The images as files; those of a way after one that moves."""
        name, sampler, found = uuid4().hex[:8], {"sampler_class": pipeline.sampler_name}, []
        for index, image in enumerate(images):
            path, described = Path(self._folder.name, f"{name}-{index}.png"), recipe.only(index).described() | sampler
            save_image(image, path, described)
            found.append(Shown(str(path), written(described)))
        if moves:
            path, described = Path(self._folder.name, f"{name}.gif"), recipe.described() | sampler
            save_moving([*images, *images[-2:0:-1]], path, fps=8, description=described)
            found.insert(0, Shown(str(path), written(described)))
        return found


def _paints(start: str, region: str) -> Any:
    """The canvas is hidden, not taken away, so that it keeps what is painted."""
    return gr.update(visible=True if start == MASK and region == PAINTED else "hidden")


def _start_from(kept: list[Shown], chosen: int, start: str) -> list[Any]:
    """The chosen image as that to start from or to paint on, large enough to be seen."""
    image = kept[chosen].image
    image = (Image.open(image) if isinstance(image, str) else image).convert("RGB")
    times = max(1, 512 // min(image.size))
    large = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    return [large, start if start == MASK else IMAGE]


def _chosen(kept: list[Shown], event: gr.SelectData) -> list[Any]:
    return [event.index, kept[event.index].said]


def _seen(kept: list[Shown]) -> list[Any]:
    """Gallery, what it holds, the chosen one and its recipe."""
    return [
        gr.update(value=[one.image for one in kept], selected_index=None),
        kept,
        0,
        gr.update(value=kept[0].said, visible=True),
    ]


def _forget(kept: list[Shown]) -> None:
    """Delete files that nobody sees any more."""
    for one in kept:
        if one.is_finished:
            Path(str(one.image)).unlink(missing_ok=True)
