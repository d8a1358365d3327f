"""The recipe: one YAML file that says what a run is. Every default is written into the run folder.

All sections but `runtime` bear identity: changing one changes what the run is. `runtime` says how to compute, not what.
Other files import from here, not from the files beside.
"""

from humpback.recipe.comparing import Judge, RunJudge, identify_judge, lacks_room
from humpback.recipe.faults import check_section
from humpback.recipe.inputs import CorpusInput, CorpusSettings, EvaluationSet, Filter, SeedInput, SeedSettings
from humpback.recipe.judging import MIN_PAIRS, Corruption, CurateSettings, EvaluateSettings, ScoreSettings, Signal
from humpback.recipe.loading import dump_recipe, identity_of, load_corpus, load_recipe, read_yaml
from humpback.recipe.overrides import apply_override
from humpback.recipe.runtime import NumberFormat, Reporter, RuntimeSettings, ServerSettings, VLLMSettings
from humpback.recipe.section import Section
from humpback.recipe.training import PRESETS, MixSettings, TrainSettings
from humpback.recipe.whole import CorpusRecipe, Recipe
from humpback.recipe.writing import AugmentSettings, GateSettings, PromptSettings, RewriteSettings, read_rubric

__all__ = [
    "MIN_PAIRS",
    "PRESETS",
    "AugmentSettings",
    "CorpusInput",
    "CorpusRecipe",
    "CorpusSettings",
    "Corruption",
    "CurateSettings",
    "EvaluateSettings",
    "EvaluationSet",
    "Filter",
    "GateSettings",
    "Judge",
    "MixSettings",
    "NumberFormat",
    "PromptSettings",
    "Recipe",
    "Reporter",
    "RewriteSettings",
    "RunJudge",
    "RuntimeSettings",
    "ScoreSettings",
    "Section",
    "SeedInput",
    "SeedSettings",
    "ServerSettings",
    "Signal",
    "TrainSettings",
    "VLLMSettings",
    "apply_override",
    "check_section",
    "dump_recipe",
    "identify_judge",
    "identity_of",
    "lacks_room",
    "load_corpus",
    "load_recipe",
    "read_rubric",
    "read_yaml",
]
