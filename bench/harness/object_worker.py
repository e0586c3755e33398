# SPDX-FileCopyrightText: The nixl authors
# SPDX-License-Identifier: Apache-2.0
"""A measured process of bench/objects: `object_worker.py CLIENT write|read SIZE COUNT`.

Writes or reads so many objects of one size at once, between memory and the server that the environment names (the
variables of AWS's programs), and prints rate and processor time as JSON. CLIENT: `nixl`, `nixl-crt` (the original's
engine for large objects), or `awscrt`, the S3 client of AWS's own command line.
"""

import io
import json
import os
import resource
import sys
import time

import numpy as np

LIMIT_S = 120.0
POLL_S = 0.0002  # of the original, which cannot wait
WARM = 8  # one of so many objects is moved before the clock starts


def key(size, number):
    return f"objects-of-{size}/{number}"


def pattern(size):
    return np.resize(np.arange(251, dtype=np.uint8), size)


class Nixl:
    def __init__(self, operation, size, memory, crt):
        from nixl_cu12 import _api

        host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
        parameters = {"access_key": os.environ["AWS_ACCESS_KEY_ID"], "secret_key": os.environ["AWS_SECRET_ACCESS_KEY"],
                      "bucket": os.environ["AWS_DEFAULT_BUCKET"], "region": os.environ["AWS_DEFAULT_REGION"],
                      "endpoint_override": host, "scheme": "http", "use_virtual_addressing": "false"}
        if crt:
            parameters["crtMinLimit"] = "1"
        self.agent = _api.nixl_agent("objects", _api.nixl_agent_config(backends=[]))
        self.agent.create_backend("OBJ", parameters)
        self.operation, self.size, self.address = operation.upper(), size, memory.ctypes.data
        self.agent.register_memory([(self.address, memory.nbytes, 0, "")], "DRAM")
        self.agent.register_memory(
            [(0, size, number, key(size, number)) for number in range(memory.nbytes // size)], "OBJ")

    def prepare(self, numbers):
        agent, size = self.agent, self.size
        local = agent.get_xfer_descs([(self.address + number * size, size, 0) for number in numbers], "DRAM")
        remote = agent.get_xfer_descs([(0, size, number) for number in numbers], "OBJ")
        return agent.initialize_xfer(self.operation, local, remote, "objects")

    def run(self, request):
        state = self.agent.transfer(request)
        end = time.monotonic() + LIMIT_S
        while state == "PROC":
            if hasattr(self.agent, "wait"):
                state = self.agent.wait(request, LIMIT_S)
                break
            time.sleep(POLL_S)
            state = self.agent.check_xfer_state(request) if time.monotonic() < end else "late"
        if state != "DONE":
            raise RuntimeError(f"the transfer ended as {state}")


class Awscrt:
    def __init__(self, operation, size, memory):
        from awscrt import auth, http, s3
        from awscrt import io as crt_io

        self.operation, self.size, self.memory = operation, size, memory
        self.http, self.s3 = http, s3
        self.host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
        credentials = auth.AwsCredentialsProvider.new_static(
            os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        region = os.environ["AWS_DEFAULT_REGION"]
        self.client = s3.S3Client(
            bootstrap=crt_io.ClientBootstrap.get_or_create_static_default(), region=region,
            tls_mode=s3.S3RequestTlsMode.DISABLED,
            signing_config=s3.create_default_s3_signing_config(region=region, credential_provider=credentials))

    def prepare(self, numbers):
        memory, size = self.memory, self.size
        return [(number, io.BytesIO(memory[number * size:(number + 1) * size]) if self.operation == "write" else None)
                for number in numbers]

    def run(self, parts):
        for request in [self._start(number, body) for number, body in parts]:
            request.finished_future.result(LIMIT_S)

    def _start(self, number, body):
        headers = [("host", self.host)]
        if body:
            headers.append(("content-length", str(self.size)))
        path = f"/{os.environ['AWS_DEFAULT_BUCKET']}/{key(self.size, number)}"
        request = self.http.HttpRequest("PUT" if body else "GET", path, self.http.HttpHeaders(headers), body)
        kind = self.s3.S3RequestType.PUT_OBJECT if body else self.s3.S3RequestType.GET_OBJECT

        def on_body(chunk, offset, **_):
            begin = number * self.size + offset
            self.memory[begin:begin + len(chunk)] = np.frombuffer(chunk, np.uint8)

        return self.client.make_request(type=kind, request=request, on_body=None if body else on_body)


def processor_s():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main():
    name, operation, size, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    memory = np.zeros(size * count, np.uint8)
    if operation == "write":
        memory.reshape(count, size)[:] = pattern(size)
    else:
        memory[:] = 1  # so that the pages are there
    client = Awscrt(operation, size, memory) if name == "awscrt" else Nixl(operation, size, memory, name == "nixl-crt")
    client.run(client.prepare(range(max(1, count // WARM))))
    request = client.prepare(range(count))
    cpu_s, started = processor_s(), time.perf_counter()
    client.run(request)
    seconds, cpu_s = time.perf_counter() - started, processor_s() - cpu_s
    if not (memory.reshape(count, size) == pattern(size)).all():
        raise RuntimeError("there are wrong bytes")
    total = size * count
    print(json.dumps({"gb_s": total / seconds / 1e9, "cpu_s_per_gib": cpu_s / (total / (1 << 30))}), flush=True)
    os._exit(0)  # the original's library crashes at times in its agents' destructors


if __name__ == "__main__":
    main()
