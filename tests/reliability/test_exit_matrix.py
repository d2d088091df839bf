"""Every way to exit, with every kind of function in every state: contract 6 and 8."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import exit_matrix
from tests.reliability.exit_scripts import LEAST, MATRIX, Runner


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


PATHS = """
def end_of_a_process(start_method):
    context = multiprocessing.get_context(start_method)
    child = context.Process(target=fill)
    child.start()
    child.join()
    assert child.exitcode == 0, child.exitcode

if __name__ == "__main__":
    path = sys.argv[1]
    if path == "return":
        fill()
    elif path == "sys.exit":
        fill()
        sys.exit(3)
    elif path == "error":
        fill()
        raise ValueError("this is how it ends")
    elif path == "SIGINT":
        fill()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1000)
    elif path == "SIGTERM":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
        fill()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1000)
    elif path == "os.fork":
        f, _ = make("def", "idle")
        g, _ = make("async", "idle")
        call("def-idle", f, -1).result(), call("async-idle", g, -1).result()
        child = os.fork()
        if not child:
            fill()
            sys.exit(5)
        status = os.waitpid(child, 0)[1]
        assert os.waitstatus_to_exitcode(status) == 5, status
    else:
        end_of_a_process(path)
"""


every_path = pytest.mark.parametrize("path", [*exit_matrix.SERVED, *exit_matrix.UNSERVED])


def expect_no_faults(cells: list[exit_matrix.Cell]) -> None:
    assert [fault for end in exit_matrix.run_all(cells) for fault in end.faults()] == []


@every_path
def test_some_of_the_matrix(path: str) -> None:
    expect_no_faults([cell for cell in exit_matrix.SOME if cell.path == path])


@pytest.mark.deep
@every_path
@pytest.mark.parametrize("kind", exit_matrix.KINDS)
def test_the_whole_matrix(path: str, kind: str) -> None:
    cells = [cell for cell in exit_matrix.ALL if (cell.path, cell.kind) == (path, kind)]
    expect_no_faults(cells)


@pytest.mark.parametrize("path", ["return", "error", "os.fork", "fork"])
def test_all_functions_in_all_states_at_once(run: Runner, path: str) -> None:
    end = run(MATRIX, PATHS, arguments=[path])
    is_error = path == "error"
    end.expect_quiet(int(is_error), "ValueError: this is how it ends" if is_error else "")
    end.expect_processed(LEAST)
