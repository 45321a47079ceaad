"""What `downscale` and `upscale` share: inputs and outputs, and a plan worked through and shown."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import click

from irn_cli.commands.options import MAX_PIXELS, NAME, Runner, argument, debugging, option, prepare_torch, searching
from irn_cli.errors import InputError, UsageError
from irn_cli.streams import standard_input, standard_output

if TYPE_CHECKING:
    from irn_cli.batch.jobs import Job, Outcome
    from irn_cli.batch.line import Events
    from irn_cli.batch.outputs import Existing, Outputs
    from irn_cli.batch.storage import Storage
    from irn_cli.batch.work import Work
    from irn_cli.inputs import Input


@dataclass(frozen=True, kw_only=True)
class BatchOptions(Runner):
    """Options that `downscale` and `upscale` share."""

    sources: tuple[str, ...] = argument(nargs=-1, type=NAME, metavar="SRC...")
    output: str | None = option("Outputs", "-o", "--output", type=NAME, metavar="OUT", show_default="beside SRC",
        help="A file for one input, a directory for more; - is standard output.")  # fmt: skip
    force: bool = option("Outputs", "--force", is_flag=True, help="Replace existing files.")
    skip_existing: bool = option("Outputs", "--skip-existing", is_flag=True, help="Skip inputs whose outputs exist.")
    update: bool = option("Outputs", "--update", is_flag=True,
        help="The same, but renew outputs that are older than their inputs.")  # fmt: skip
    name: str | None = option("Outputs", "--name", metavar="TEMPLATE",
        help="What each result is called; {stem}, {scale} and {suffix} are filled in.")  # fmt: skip
    strip: bool = option("Outputs", "--strip", is_flag=True,
        help="Leave out EXIF, XMP, colour profile, resolution and the original's name.")  # fmt: skip
    files_from: str | None = option("Inputs", "--files-from", type=NAME, metavar="FILE",
        help="Read more inputs from FILE, one per line; - is standard input.")  # fmt: skip
    zeros: bool = option("Inputs", "-0", "--null", is_flag=True, help="Names in --files-from end with a zero byte.")
    shard: str | None = option("Inputs", "--shard", metavar="I/N|slurm",
        help="Take the I-th of N shares of the inputs; slurm reads both from a job array's task.")  # fmt: skip
    max_pixels: int = option("Inputs", "--max-pixels", **MAX_PIXELS, help="Refuse larger pictures.")
    as_json: bool = option("Messages", "--json", is_flag=True,
        help="Print one JSON object per picture on standard output.")  # fmt: skip
    quiet: bool = option("Messages", "-q", "--quiet", is_flag=True, help="Show only warnings and failures.")
    verbose: bool = option("Messages", "-v", "--verbose", is_flag=True, help="Name each picture that is skipped, too.")
    dry_run: bool = option("Messages", "--dry-run", is_flag=True,
        help="Write nothing; say how much there is to do, and how long it takes, from a measured second.")  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources and not self.files_from:
            raise click.UsageError("Missing argument 'SRC...'.")
        if "-" in self.sources and self.files_from == "-":
            raise UsageError("standard input cannot be both a picture and the list of --files-from")
        if self.zeros and not self.files_from:
            raise UsageError("-0 says how names in a list end: it needs --files-from")
        if self.as_json and (self.output == "-" or (self.output is None and "-" in self.sources)):
            raise UsageError("standard output cannot take both a picture and --json; -o names a file")
        if self.force + self.skip_existing + self.update > 1:
            raise UsageError("--force, --skip-existing and --update exclude each other")
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose exclude each other")
        if self.as_json or self.dry_run or self.output == "-":
            standard_output()

    def outputs(self) -> "Outputs":
        from irn_cli.batch.outputs import Outputs

        chosen: dict[Existing, bool] = {"replace": self.force, "skip": self.skip_existing, "update": self.update}
        existing: Existing = next((existing for existing, asked in chosen.items() if asked), "refuse")
        return Outputs(self.output, existing, name=self.name)

    def storage(self) -> "Storage":
        from irn_cli.batch.storage import Storage  # which loads torch

        return Storage(self.outputs(), self.strip, self.max_pixels)


def find_inputs(options: BatchOptions) -> "list[Input]":
    """The inputs that a command line means."""
    from irn_cli.inputs import find_pictures, read_list
    from irn_cli.paths import open_file, to_path

    listed: list[str] = []
    if options.files_from == "-":
        listed = read_list(standard_input(), zeros=options.zeros)
    elif options.files_from:
        try:
            with open_file(to_path(options.files_from)) as stream:
                listed = read_list(stream, zeros=options.zeros)
        except OSError as error:
            raise InputError(f"cannot read {options.files_from}: {error.strerror}") from error
    with searching(quiet=options.quiet):
        return find_pictures(options.sources, listed)


def run_plan(plan: "Sequence[Job | Outcome]", work: "Callable[[], Work]", options: BatchOptions) -> int:
    """Work through a plan and show it; the exit status. Torch is loaded only where there is something left to do."""
    from irn_cli.batch.jobs import Job, Outcome
    from irn_cli.batch.outputs import check_outputs
    from irn_cli.batch.plan import share
    from irn_cli.batch.progress import follow
    from irn_cli.inputs import parse_shard

    if options.shard:
        plan = share(plan, *parse_shard(options.shard, os.environ))
    plan = check_outputs(plan, options.outputs())
    if options.dry_run:
        return _forecast(plan, work, options)
    pixels = {item.source: item.pixels for item in plan if isinstance(item, Job)}
    events = _events(plan, work, options) if pixels else (item for item in plan if isinstance(item, Outcome))
    return follow(
        events,
        len(plan),
        pixels=pixels,
        quiet=options.quiet,
        verbose=options.verbose,
        as_json=options.as_json,
        debug=debugging(),
    )


def _events(plan: "Sequence[Job | Outcome]", work: "Callable[[], Work]", options: BatchOptions) -> "Events":
    """What happens while a plan is worked through, here or on a cluster."""
    if cluster := options.cluster():
        from irn_cli.batch.cluster import run_on_cluster

        return run_on_cluster(plan, work, options.storage(), cluster)
    return _line(work, options)(plan, storage=options.storage())


def _line(work: "Callable[[], Work]", options: BatchOptions) -> "Callable[..., Events]":
    """What works through a plan on this machine."""
    prepare_torch(options.threads)
    import torch

    from irn_cli.batch.line import run
    from irn_cli.device import resolve_device

    # Small pictures have a core each; a GPU is one, and --memory is said of one picture's network.
    several = not options.memory and resolve_device(options.device).type == "cpu"
    at_once = torch.get_num_threads() if several else 1
    return partial(run, work=work(), at_once=at_once)


def _forecast(plan: "Sequence[Job | Outcome]", work: "Callable[[], Work]", options: BatchOptions) -> int:
    """Say what a plan would do, and take; the exit status."""
    from irn_cli.batch.estimate import count, describe, estimate
    from irn_cli.batch.jobs import Job, Outcome
    from irn_cli.batch.outputs import Outputs
    from irn_cli.batch.progress import failed

    jobs = [item for item in plan if isinstance(item, Job)]
    failures = [item for item in plan if isinstance(item, Outcome) and item.status == "failed"]
    for failure in failures:
        click.echo(failed(failure), err=True)
    estimated = None
    if jobs:
        line = _line(work, options)
        estimated = estimate(jobs, partial(line, storage=replace(options.storage(), outputs=Outputs())))
    if options.as_json:
        click.echo(json.dumps(count(plan, estimated)))
    else:
        click.echo("\n".join(describe(plan, estimated)))
    return 1 if failures else 0
