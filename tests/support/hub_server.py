"""A server that speaks as much of the Hub's protocol as `huggingface_hub` needs to fetch a model repository's snapshot."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(repositories, revisions=("main", "v1")):
    """repositories: "org/name" -> folder. All revisions are one commit. Yields (address, list of requests as "METHOD path")."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def _say(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            asked.append(f"{self.command} {path}")
            for name, folder in repositories.items():
                if path.startswith(f"/api/models/{name}"):
                    revision = next((path.rpartition(word)[2] for word in ("/revision/", "/tree/") if word in path), "main")
                    if revision not in (*revisions, COMMIT):
                        return self._say(404, X_Error_Code="RevisionNotFound")
                    paths = sorted(folder.iterdir())
                    if "/tree/" in path:
                        entries = [
                            {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": hashlib.sha1(p.read_bytes()).hexdigest()}
                            for p in paths
                        ]
                        return self._say(200, json.dumps(entries).encode(), Content_Type="application/json")
                    files = [{"rfilename": p.name, "size": p.stat().st_size} for p in paths]
                    told = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [], "siblings": files}
                    return self._say(200, json.dumps(told).encode(), Content_Type="application/json")
                if path.startswith(f"/{name}/resolve/"):
                    file = folder / path.split("/", 5)[5]
                    if not file.is_file():
                        return self._say(404, X_Error_Code="EntryNotFound")
                    body = file.read_bytes()
                    return self._say(200, body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=COMMIT)
            return self._say(404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
