"""Settings of all tests. The import hook that checks shapes is switched on in pyproject.toml."""

import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import datasets  # noqa: F401
import pytest
import torch
import transformers.modeling_utils
import transformers.trainer  # noqa: F401
from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# As for scripts: a recipe imports the package of its study and what all recipes share.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "recipes")]

# The plugin's option takes one package, noiselab; the packages of the studies are checked like it.
STUDIES = [
    folder.name for folder in (Path(__file__).parents[1] / "recipes").iterdir() if (folder / "__init__.py").exists()
]
install_import_hook(STUDIES, "beartype.beartype(conf=beartype.BeartypeConf(strategy=beartype.BeartypeStrategy.On))")

# Two workers share two cores; more threads than cores make every small operation wait.
torch.set_num_threads(1)
settings.register_profile("noiselab", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("noiselab")

# Laws that `make test` checks on one or two kinds of noise; on the others they are long.
LONG = (
    "*/samplers/test_compiled.py::test_one_of_generated_code_is_too",
    "*/samplers/test_gillespie.py::test_batched_equals_one_by_one_and_prompts_stay?gidd?",
    "*/samplers/test_gillespie.py::test_batched_equals_one_by_one_and_prompts_stay?uniform?",
    "*/samplers/test_gillespie.py::test_gillespie_is_exact_in_a_single_step?gidd?",
    "*/samplers/test_gillespie.py::test_gillespie_is_exact_in_a_single_step?uniform?",
    "*/samplers/test_grids.py::test_no_point_of_the_measured_grid_can_be_moved_for_more_than_a_little?gidd?",
    "*/samplers/test_grids.py::test_the_measured_grid_samples_better_than_the_rules?log-SNR*",
    "*/samplers/test_grids.py::test_the_measured_grid_samples_better_than_the_rules?gidd-16*",
    "*/samplers/test_grids.py::test_the_measured_grid_samples_better_than_the_rules?uniform*",
    "*/samplers/test_grids.py::test_the_measured_cost_is_what_steps_of_double_length_add_to_the_bound?log-SNR*",
    "*/wrappers/test_blocks.py::test_blocks_around_known_tokens_have_the_conditional_law?gidd?",
    "*/wrappers/test_blocks.py::test_the_law_is_that_of_the_data_for_any_block_size?uniform*",
    "*/wrappers/test_blocks.py::test_the_law_is_that_of_the_data_for_any_block_size?gidd-1-past?",
    "*/samplers/test_combinations.py::test_any_stack_*?[013]-gidd?",
    "*/samplers/test_tau_leaping.py::test_the_law_tends_to_that_of_the_data?*-uniform?",
    "*/samplers/test_tau_leaping.py::test_the_law_tends_to_that_of_the_data?EulerSampler-gidd?",
    "*/samplers/test_tau_leaping.py::test_the_law_tends_to_that_of_the_data?TauLeapingSampler-masked?",
    "*/wrappers/test_stopping.py::test_prompts_blocks_and_ends_together?all?",
    "*/correctors/test_correctors.py::test_many_small_dfm_steps_leave_the_law_as_it_is?uniform?",
    "*/correctors/test_correctors.py::test_many_small_dfm_steps_leave_the_law_as_it_is?masked?",
    "*/samplers/test_remasking.py::test_ddim_tends_to_the_law_of_the_data?uniform?",
    "*/samplers/test_networks.py::test_samplers?gillespie?",
    "*/networks/test_block_cache.py::test_the_same_numbers_give_the_same_tokens_with_less_work?gidd-all?",
    "*/networks/test_block_cache.py::test_samples_by_an_approximate_cache?gidd-*",
    "*/denoisers/test_transforms.py::test_edits_act_on_the_prediction_so_the_law_does_not_depend_on_steps?top-[kp]-gidd*",
    "*/bench/test_sampler_bench.py::test_samplers_that_claim_to_converge_do?uniform?",
    "*/bench/test_sampler_bench.py::test_samplers_that_claim_to_converge_do?masked?",
    "*/likelihood/test_entropy.py::test_what_the_log_snr_leaves_at_its_ends_falls_with_its_range",
    "*/training/test_two_processes.py::test_two_processes_make_the_steps_of_one_with_the_joint_batch?16-1?",
    "*/likelihood/test_discrete.py::test_it_bounds_the_likelihood_of_the_sampler_and_tends_to_the_entropy?gidd v1.0.0?",
    # Relatives of a noise that stays: of hybrid, uniform and word noise.
    "*/core/test_laws.py::test_ready_made?gidd, gamma 2-draws_have_the_marginal_law?",
    "*/core/test_laws.py::test_ready_made?gidd, gamma 2-bound_*",
    "*/core/test_laws.py::test_ready_made?gidd, gamma 2-reverse_move_has_the_posterior_law?",
    "*/core/test_laws.py::test_ready_made?uniform on words-bound_*",
    "*/core/test_laws.py::test_ready_made?sparse unigram-bound_is_tight?",
    "*/core/test_entropy_identity.py::test_leave_one_out_gives_the_entropy?uniform-own clocks?",
    "*/core/test_entropy_identity.py::test_leave_one_out_gives_the_entropy?mask and unigram-*",
    "*/samplers/test_ancestral.py::test_the_sampled_law_converges_to_the_datas?gidd, gamma 2?",
    "*/samplers/test_ancestral.py::test_the_sampled_law_converges_to_the_datas?uniform on words?",
    "*/samplers/test_ancestral.py::test_the_sampled_law_converges_to_the_datas?sparse unigram?",
    "*/samplers/test_ancestral.py::test_the_sampled_law_converges_to_the_datas?learned?",
    "*/likelihood/test_entropy.py::test_by_enumeration_the_bound_is_the_entropy?*-[245]?",
    "*/likelihood/test_entropy.py::test_by_enumeration_the_bound_is_the_entropy?gidd 0.1-6?",
    "*/likelihood/test_entropy.py::test_by_enumeration_the_bound_is_the_entropy?gidd, gamma 2-6?",
    "*/likelihood/test_entropy.py::test_by_drawing_the_bound_is_the_entropy?gidd, gamma 2?",
    "*/likelihood/test_entropy.py::test_by_drawing_the_bound_is_the_entropy?uniform on words?",
    "*/likelihood/test_entropy.py::test_by_drawing_the_bound_is_the_entropy?sparse unigram?",
    "*/evaluation/test_bound.py::test_with_its_end_terms_the_bound_is_the_entropy?uniform-0.0001?",
    "*/evaluation/test_bound.py::test_with_its_end_terms_the_bound_is_the_entropy?mask and unigram-*",
    "*/evaluation/test_bound.py::test_with_its_end_terms_the_bound_is_the_entropy?stranger-1e-06?",
    "*/evaluation/test_bound.py::test_at_every_truncation_it_is_a_bound?mask and unigram?",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if any(fnmatchcase("/" + item.nodeid, pattern) for pattern in LONG):
            item.add_marker(pytest.mark.long)
        elif "/docs/" in item.nodeid:
            item.add_marker(pytest.mark.docs)


@pytest.fixture
def unchecked():
    """Shape checks off: they read thread-local state, which torch.compile cannot trace."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
