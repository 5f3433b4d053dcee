"""A server that takes KernelCI's submissions, version 5.3, from who has the token. Usage: submit.py PORT-FILE TOKEN"""

import http.server
import json
import pathlib
import sys

from kcidb_io.schema import V5_3

PORT_FILE, TOKEN = sys.argv[1:]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"]))
        code = 200 if self.headers["Authorization"] == f"Bearer {TOKEN}" else 401
        if code == 200:
            try:
                V5_3.validate(json.loads(text))
            except Exception as error:  # kcidb-io and json raise many kinds of exceptions.
                code = 400
                print(error, flush=True)
        print("taken" if code == 200 else f"refused: {code}", flush=True)
        self.send_response(code)
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
pathlib.Path(PORT_FILE).write_text(str(server.server_port))
server.serve_forever()
