"""A small Hugging Face Hub for the tests: real HTTP on loopback, for the real huggingface_hub client.

    with HubServer() as hub:
        hub.users["hf_token"] = "ann"
        hub.fail("PUT /storage/", Status(503), times=1)

Nothing is simulated in the client: it runs in processes of its own, with HF_ENDPOINT set to `hub.url`.
"""

from hub_server.faults import Call, Close, Corrupt, CutUpload, LoseResponse, Status, Truncate
from hub_server.repos import Repo
from hub_server.server import HubServer

__all__ = ["Call", "Close", "Corrupt", "CutUpload", "HubServer", "LoseResponse", "Repo", "Status", "Truncate"]
