"""The verb demo: a page to try a checkpoint in the browser."""

import os

from sign_zs3.commands.parsing import VerbParser
from sign_zs3.commands.predict import add_windows, window_options
from sign_zs3.errors import UserError, pip_install

EXAMPLES_HELP = """\
Images to choose from on the page, or folders of them (default: drawn scenes where the model's classes are those of the
built-in data, else none)."""


def run(args: list[str]) -> int:
    """Serve the page until Ctrl-C; a UserError without gradio, a usable checkpoint and a free address."""
    made = VerbParser("demo", description=f"Try a checkpoint in the browser; needs gradio ({pip_install('demo')}).")
    add = made.add_argument
    add("--ckpt_path", required=True, metavar="FILE", help="checkpoint of a trained model")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all (default: %(default)s)")
    add("--port", type=int, help="port to listen on (default: the first free one from 7860 on)")
    add("--examples", nargs="+", default=(), metavar="PATH", help=EXAMPLES_HELP)
    add_windows(made)
    options = made.parse_args(args)
    # nobody is told who uses the page; gradio reads this when it is imported
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        from sign_zs3.commands.page_layout import build_page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError(f"demo: gradio is not installed, expected it for the page: {pip_install('demo')}") from None
    from sign_zs3.images import find_images
    from sign_zs3.tasks.loading import load_task

    examples = [*find_images(options.examples, "--examples")] if options.examples else []
    model = load_task(options.ckpt_path)
    page = build_page(model, examples, **window_options(model.segmenter, options))
    try:
        _, url, _ = page.launch(
            server_name=options.host, server_port=options.port, share=False, inbrowser=False, quiet=True,
            prevent_thread_lock=True, ssr_mode=False, footer_links=["settings"],
        )  # fmt: skip
    except (OSError, OverflowError):
        where = f"{options.host}, port {options.port or 'from 7860 on'} taken or not of this machine"
        raise UserError(f"demo: found {where}, expected a free address: give --host or --port") from None
    print(f"page:     {url} (Ctrl-C ends it)", flush=True)
    try:
        page.block_thread()
    finally:
        page.close(verbose=False)
    return 0
