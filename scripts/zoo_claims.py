"""Published claims about schemes and methods, and whether the zoo's numbers bear them out."""

from dataclasses import dataclass

from page_parts import NONE, shown, table
from result_cells import DELTA, Difference, Results, difference

BCA, WINDOW = "blockwise", "window"


@dataclass(frozen=True)
class Holds:
    """A scheme under a method does not rise past its trained length, or it does (rises)."""

    source: str
    scheme: str
    method: str = ""
    rises: bool = False


@dataclass(frozen=True)
class Better:
    """One scheme under a method has the lower loss than another at the longest length."""

    source: str
    scheme: str
    than: str
    method: str = ""
    than_method: str = ""


CLAIMS: tuple[Holds | Better, ...] = (
    Holds("LEX, 2212.10554", "rope", rises=True),
    Holds("LEX, 2212.10554", "rope", BCA),
    Better("LEX, 2212.10554", "xpos", "rope"),
    Holds("ALiBi, 2108.12409", "alibi"),
    Holds("ALiBi, 2108.12409", "sinusoidal", rises=True),
    Holds("KERPLE, 2205.09921", "kerple_log"),
    Better("KERPLE, 2205.09921", "kerple_log", "alibi"),
    Holds("Sandwich, 2212.10356", "sandwich"),
    Better("FIRE, 2310.04418", "fire", "alibi"),
    Better("DAPE, 2405.14722", "dape_kerple_log", "kerple_log"),
    Better("HoPE, 2410.21216", "hope", "rope"),
    Better("FoPE, 2412.17739", "fope", "rope"),
    Better("PoPE, 2509.10534", "pope", "rope"),
    Better("FoX, 2503.02130", "fox", "rope"),
    Better("CABLE, 2503.08067", "cable", "alibi"),
    Better("PaTH, 2505.16381", "path_fox", "path"),
    Better("Wall Attention, 2026", "wall", "fox"),
    Better("Selective RoPE, 2511.17388", "selective_rope", "rope"),
    Holds("SWAN, 2504.08719", "swan"),
    Better("YaRN, 2309.00071", "rope", "rope", "yarn", "ntk_by_parts"),
    Better("YaRN, 2309.00071", "rope", "rope", "ntk_by_parts", "ntk"),
    Better("YaRN, 2309.00071", "rope", "rope", "ntk", "pi"),
    Better("Resonance RoPE, 2403.00071", "rope", "rope", "resonance_yarn", "yarn"),
    Better("StreamingLLM, 2309.17453", "rope", "rope", "window_sinks", WINDOW),
    Better("SelfExtend, 2401.01325", "rope", "rope", "self_extend"),
    Better("STRING, 2410.18745", "rope", "rope", "string"),
    Better("ReAttention, 2407.15176", "rope", "rope", "reattention"),
    Better("Wang et al., 2404.12224", "nope", "nope", "uniform_scale"),
    Better("Dong et al., 2405.18009", "nope", "nope", "vector_replacement"),
)  # fmt: skip


def claims(results: Results, readable: dict[str, float], longest: int) -> list[str]:
    """Return the table of claims. readable: the least differences between schemes that may be read.

    Its keys are 1x, the longest length as a factor, and rise.
    """
    factor = f"{longest / results.train_len:g}x"
    rows = []
    for claim in CLAIMS:
        if isinstance(claim, Holds):
            words, d = _holds(results, claim, longest)
            verdict = _verdict_of_rise(d, claim.rises)
        else:
            words, d = _better(results, claim, longest)
            least = 0.0 if claim.scheme == claim.than else readable[factor]
            verdict = _verdict_of_difference(d, least)
        rows.append([words, claim.source, shown(d) if d else NONE, verdict])
    heads = ("claim", "source", f"nats at {factor}", "holds here?")
    return [f"### Published claims, at {factor}", "", *table(heads, rows, 4)]


def _holds(results: Results, claim: Holds, longest: int) -> tuple[str, Difference | None]:
    trained = results.cell(claim.scheme, "", results.train_len)
    d = difference(results.cell(claim.scheme, claim.method, longest), trained)
    return f"{_called(claim.scheme, claim.method)} {'rises' if claim.rises else 'holds'}", d


def _better(results: Results, claim: Better, longest: int) -> tuple[str, Difference | None]:
    ours, theirs = (
        results.cell(scheme, method, longest)
        for scheme, method in ((claim.scheme, claim.method), (claim.than, claim.than_method))
    )
    names = _called(claim.scheme, claim.method), _called(claim.than, claim.than_method)
    return f"{names[0]} is better than {names[1]}", difference(ours, theirs)


def _called(scheme: str, method: str) -> str:
    return f"`{scheme}, {method}`" if method else f"`{scheme}`"


def _verdict_of_rise(d: Difference | None, claimed: bool) -> str:
    """Return whether a rise is as claimed: above DELTA, or at most it, interval included."""
    if d is None:
        return "no numbers"
    if d[0] - d[1] > DELTA:
        return "yes" if claimed else "no"
    return "cannot say" if d[0] + d[1] > DELTA else "no" if claimed else "yes"


def _verdict_of_difference(d: Difference | None, least: float) -> str:
    """Return whether a difference is below 0: its interval, and more than seeds differ by."""
    if d is None:
        return "no numbers"
    if not abs(d[0]) > max(least, d[1]):  # nan: one seed each, nothing may be read
        return "cannot say"
    return "yes" if d[0] < 0 else "no"
