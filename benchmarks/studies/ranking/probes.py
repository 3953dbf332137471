"""Judge the IDs that the study compares without any recommender, beside how they ranked with one.

python -m benchmarks.studies.ranking.probes CATALOGUE_FOLDER

The table of docs/results/id-probes.md is made by every run, of the tokenizers and the finished runs of `recommendation`
that are there; the text around it is written by hand.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.studies.experiments import origin
from benchmarks.studies.pages import FOLDER, write
from benchmarks.studies.ranking.item_ids import PUBLISHED, Places, Users, prepare, semantic_ids
from benchmarks.studies.ranking.page import IDS, grid, origin_lines
from benchmarks.studies.ranking.recommendation import DOMAINS, Run, figures, study_parser
from unitok.data import find_domains
from unitok.evaluation.id_probes import probe
from unitok.recommender import Scores

HEAD = ["IDs", "bits, all codes", "first code: cosine", "transitions within", "lift", "first two: cosine"]
HEAD += ["transitions within", "lift", "codes shared, most met third", "least met third", "NDCG@10 of the recommender"]


def main() -> None:
    """Judge what is there, and write the page."""
    parser = study_parser(__doc__)
    parser.add_argument("--domains", nargs="*", help="judge the IDs of these; by default of all that the study has")
    parser.add_argument("--page", type=Path, default=FOLDER / "id-probes.md")
    options = parser.parse_args()
    places = Places(options.data, options.work, options.tokenizers, options.settings)
    folders = find_domains(places.data)
    wanted = [name for name in DOMAINS if name in folders] if options.domains is None else options.domains
    if unknown := set(wanted) - set(folders):
        raise SystemExit(f"--domains must be among {', '.join(folders)}, got {', '.join(sorted(unknown))}.")
    lines = origin_lines([origin()])
    for domain in wanted:
        lines += ["", f"### {domain}", "", *grid(HEAD, rows(domain, places))]
    write(options.page, lines)
    print(options.page)


def rows(domain: str, places: Places) -> list[list[str]]:
    """Judge a domain's IDs of seed 0."""
    users, found = Users.of(domain, places.data), []
    for name in IDS:
        if name in PUBLISHED and not (find_domains(places.data)[domain] / f"{PUBLISHED[name]}.parquet").exists():
            continue
        prepare(name, 0, places)
        probes = probe(semantic_ids(name, users, 0, places), users.content, users.histories)
        cells = [f"{sum(level.bits for level in probes.levels):.2f}"]
        for level in probes.levels[:2]:
            cells += [f"{level.cosine:.3f}", f"{level.together:.2%}", f"{level.lift:.1f}"]
        shares = list((probes.shared or {}).values())
        kept = figures(Run(domain, name, 0, None), places)
        ranked = "" if kept is None else f"{float(Scores.from_dict(kept['scores']['excluded']).values().mean()):.4f}"
        found.append([name, *cells, f"{shares[0]:.2%}", f"{shares[-1]:.2%}", ranked.removeprefix("0")])
    return found


if __name__ == "__main__":
    main()
