"""A master and sensors as processes on this host, driven from outside by their command line and HTTP API."""
import json, pathlib, signal, socket, ssl, struct, subprocess, time, urllib.error, urllib.parse, urllib.request


class Failed(Exception):
    """Something that must hold does not."""


def check(holds, what):
    if not holds:
        raise Failed(what)
    print(f"holds: {what}", flush=True)


def until(seconds, what, probe):
    """Waits for probe() to be true and returns it."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            last = probe()
            if last:
                return last
        except (OSError, ValueError, KeyError) as error:
            last = repr(error)
        time.sleep(0.2)
    raise Failed(f"not within {seconds} s: {what}; last seen: {last!r}")


def adds_up(ledger):
    """Fails unless each packet and byte that an agent saw has its fate; what is not sent yet counts as sent."""
    for what in ("packets", "bytes"):
        fates = {fate: ledger[fate][what] for fate in ("sent", "left", "filtered", "shed", "metadata")}
        if sum(fates.values()) != ledger["seen"][what]:
            raise Failed(f"an agent's ledger does not add up: {ledger['seen'][what]} {what} seen, {fates}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pcapng_frames(data):
    """The frames of a pcapng file; fails where its framing is wrong."""
    frames, at = [], 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if length < 12 or length % 4 or struct.unpack_from("<I", data, at + length - 4)[0] != length:
            raise Failed(f"the pcapng framing is wrong at byte {at}")
        if kind == 6:
            kept = struct.unpack_from("<I", data, at + 20)[0]
            frames.append(data[at + 28:at + 28 + kept])
        at += length
    return frames


def pcap_frames(path):
    """The frames of a classic little-endian pcap file."""
    data, frames, at = pathlib.Path(path).read_bytes(), [], 24
    while at < len(data):
        kept = struct.unpack_from("<I", data, at + 8)[0]
        frames.append(data[at + 16:at + 16 + kept])
        at += 16 + kept
    return frames


def conn_log(path):
    fields, rows = [], []
    for line in pathlib.Path(path).read_text().splitlines():
        if line.startswith("#fields"):
            fields = line.split("\t")[1:]
        elif line and not line.startswith("#"):
            rows.append(dict(zip(fields, line.split("\t"))))
    return rows


class Rig:
    """One master and any number of sensors in a folder."""

    def __init__(self, programs, room):
        self.sensor_program, self.master_program = (pathlib.Path(programs) / name for name in ("thymus-sensor", "thymus-master"))
        self.room, self.port, self.token, self.children = pathlib.Path(room), free_port(), "", []
        self.data = self.room / "master"
        self.trust = ssl._create_unverified_context()

    def run(self, *command, **more):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, **more)
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    def start(self, *command):
        with open(self.room / "log", "ab") as log:
            child = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        self.children.append(child)
        return child

    def start_master(self):
        child = self.start(self.master_program, "run", "--data", self.data, "--listen", f"127.0.0.1:{self.port}")
        until(30, "the master answers /healthz", lambda: self.get("/healthz", raw=True, token="") is not None)
        return child

    def administer(self, *command, **more):
        status, out, said = self.run(self.master_program, *command, "--data", self.data, **more)
        if status != 0:
            raise Failed(f"{command} ended with {status}: {said}")
        return out

    def pair(self, state, **more):
        token = self.administer("token", "create", *[part for pair in more.items() for part in (f"--{pair[0]}", pair[1])])
        status, _, said = self.run(self.sensor_program, "join", token, "--state", state)
        if status != 0:
            raise Failed(f"join ended with {status}: {said}")

    def get(self, path, token=None, raw=False):
        token = self.token if token is None else token
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, context=self.trust, timeout=30) as answer:
            body = answer.read()
        return body if raw else json.loads(body)

    def status_of(self, path, token=None):
        try:
            self.get(path, token, raw=True)
            return 200
        except urllib.error.HTTPError as error:
            return error.code

    def all(self, path, **query):
        items, cursor = [], None
        while True:
            more = {**query, **({"cursor": cursor} if cursor else {})}
            page = self.get(f"/api/v1/{path}?{urllib.parse.urlencode(more)}")
            items += page["items"]
            cursor = page["next"]
            if not cursor:
                return items

    def packets(self, **query):
        return pcapng_frames(self.get(f"/api/v1/packets?{urllib.parse.urlencode(query)}", raw=True))

    def kill(self, child):
        child.send_signal(signal.SIGKILL)
        child.wait()

    def close(self):
        for child in self.children:
            child.terminate()
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
