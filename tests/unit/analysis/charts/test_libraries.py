"""The script that pages hold: made once in each process, of the version that the charts are written for."""

from bandlens.analysis.charts.grammar import vega_lite_version
from bandlens.analysis.charts.libraries import begin_libraries


def test_a_script_of_the_charts_version_is_made_once() -> None:
    script = begin_libraries().result(60)
    assert "window.vegaEmbed" in script
    assert f'="{vega_lite_version()}.' in script
    assert begin_libraries() is begin_libraries()
