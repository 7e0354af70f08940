"""Of the tests that take longest, the suite runs some of the variants.

They try one thing on more formats, stores or times than a change is likely to tell
apart. ``FREEZER_TEST_THOROUGH=1`` runs all of them.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar('T')

_OF_FILES = {
    'conformance/test_check.py': {
        'test_nothing_remains_in_a_bucket_with_versions': 2,
    },
    'conformance/test_check_faults.py': {
        'test_a_store_that_errs': 10,
    },
    'conformance/test_parts.py': {
        'TestEveryStorage::test_what_is_missing': 8,
    },
    'conformance/test_storage.py': {
        'TestPages::test_more_objects_than_a_page': 2,
        'TestVariants::test_a_chain': 6,
    },
    'conformance/test_storage_index.py': {
        'TestAdding::test_a_process_that_is_killed': 4,
        'TestAdding::test_as_if_it_had_been_there': 8,
        'TestOtherSize::test_one_that_grew': 7,
        'TestOtherSize::test_truncated': 7,
        'TestWriting::test_a_process_that_is_killed': 7,
        'test_a_size_at_a_limit': 6,
    },
    'conformance/test_verify.py': {
        'TestEveryStorage::test_damaged_manifest_or_digests': 7,
        'TestEveryStorage::test_what_is_whole': 7,
    },
    'functional/test_copy.py': {
        'test_each_state_restores_from_the_copy': 3,
    },
    'functional/test_forged_times.py': {
        'test_time_of_an_index': 4,
    },
    'functional/test_incomplete.py': {
        'test_a_file_that_is_not_read_to_its_end_is_not_restored': 4,
        'test_input_output_errors': 3,
    },
    'functional/test_increments_cases.py': {
        'test_clock_apart_from_that_of_the_file_system': 2,
        'test_clock_that_jumps_between_levels': 2,
        'test_file_and_directory_are_exchanged_after_tar_has_listed_them': 3,
    },
    'functional/test_increments_chains.py': {
        'test_chain_restores': 4,
    },
    'functional/test_mistakes.py': {
        'test_hosts_that_have_the_name': 4,
    },
    'functional/test_mount.py': {
        'test_each_state_is_what_a_restore_brings': 3,
    },
    'functional/test_part.py': {
        'test_list_of_the_newest_state': 2,
    },
    'functional/test_parts.py': {
        'test_three_levels': 2,
    },
    'functional/test_passphrase.py': {
        'test_a_descriptor': 3,
    },
    'functional/test_pin.py': {
        'test_a_pinned_state_stays_with_its_base': 2,
    },
    'functional/test_rebuild_index.py': {
        'test_as_if_they_had_been_there': 4,
    },
    'functional/test_requests.py': {
        'test_each_small_object_is_fetched_once': 3,
    },
    'functional/test_s3_options.py': {
        'test_header': 5,
    },
    'functional/test_s3_options_stores.py': {
        'test_stores_accept_the_option': 9,
    },
    'functional/test_searching.py': {
        'test_diff_of_a_part': 2,
        'test_diff_of_one_state_is_empty': 2,
        'test_diff_of_two_states': 8,
        'test_dump_of_anything_else_is_refused': 1,
        'test_dump_of_every_file': 2,
        'test_find_a_part': 2,
        'test_find_in_a_table': 2,
        'test_find_shows_each_version': 2,
    },
    'functional/test_servers.py': {
        'test_restart_keeps_data_and_the_end_leaves_nothing': 2,
    },
    'functional/test_site.py': {
        'test_a_fault_is_found': 4,
    },
    'functional/test_stream.py': {
        'test_a_stream_restores': 2,
    },
    'functional/test_verify.py': {
        'test_damage_is_located': 4,
    },
    'functional/test_verify_archives.py': {
        'test_an_index_of_other_data': 5,
        'test_nothing_is_wrong_with_what_the_agent_makes': 6,
    },
}
#: the file and name of a test -> how many of its variants run
VARIANTS = {
    f'{path}::{name}': count
    for path, tests in _OF_FILES.items()
    for name, count in tests.items()
}


def some(variants: Sequence[T], count: int) -> list[T]:
    """So many of them, at equal distances; all if there are not more."""
    count = min(count, len(variants))
    return [variants[number * len(variants) // count] for number in range(count)]
