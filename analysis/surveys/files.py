"""A finished survey as a file."""

from pathlib import Path

from attlas.analysis.output.whole_file import check_suffix, save_netcdf, save_table, whole_file
from attlas.analysis.surveys.result import Survey

__all__ = ["SUFFIXES", "save_survey"]

SUFFIXES = (".nc", ".parquet", ".csv", ".png")


def save_survey(survey: Survey, path: str | Path) -> None:
    """Write `survey` as the suffix says; see `Survey.save`."""
    target = check_suffix(path, SUFFIXES)
    runs = target.suffixes[-2:-1] == [".runs"]
    if target.suffix == ".png":
        from attlas.analysis.surveys.figures import draw

        figure = draw(survey)
        with whole_file(target) as part:
            figure.savefig(part, dpi=300, metadata={"Software": f"attlas {survey.attrs['attlas']}"})
    elif target.suffix == ".nc":
        save_netcdf(survey.scores if runs else survey.dataset, target)
    else:
        save_table(survey.scores.to_dataframe().reset_index() if runs else survey.table(), target)
