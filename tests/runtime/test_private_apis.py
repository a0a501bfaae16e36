"""What we use of other libraries beyond their public interface is where we expect it.

The processes of a run tell each other of a failure in the store of JAX's coordinator, which JAX
exposes in no public module. The layout of Orbax's checkpoints, which we read to tell damage from
I/O errors, is tested in tests/checkpoint.
"""

import socket
import subprocess
import sys

PROGRAM = """
import sys
import jax
from jaxdistill.runtime import distributed
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 1, 0)
client = distributed.jax_distributed.global_state.client
try:
    client.key_value_try_get(distributed._FAILED)
except jax.errors.JaxRuntimeError:
    print("absent")
client.key_value_set(distributed._FAILED, "1", allow_overwrite=True)
client.key_value_set(distributed._FAILED, "3", allow_overwrite=True)
print(client.key_value_try_get(distributed._FAILED))
jax.distributed.shutdown()
"""


def test_the_coordinator_s_store_tells_of_a_failed_process() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", PROGRAM, str(port)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["absent", "3"]
