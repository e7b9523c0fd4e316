"""An appliance in QEMU under software emulation: its disk and cards, the wire into its span card, its console."""
import pathlib, re, socket, struct, subprocess, threading, time

from rig import Failed, free_port, until

FIRMWARE = "/usr/share/OVMF/OVMF_CODE.fd"
RATE = 2500
DISKS = {
    "virtio": ["-device", "virtio-blk-pci,drive=d,bootindex=1"],
    "pvscsi": ["-device", "pvscsi,id=scsi0", "-device", "scsi-hd,drive=d,bus=scsi0.0,bootindex=1"],
    "sata": ["-device", "ich9-ahci,id=sata0", "-device", "ide-hd,drive=d,bus=sata0.0,bootindex=1"],
}


def frames(network, count, first=0):
    """UDP between ten hosts of a network, each packet once; about 10 Mbit/s at RATE."""
    made = []
    for n in range(first, first + count):
        source, target = n % 10 + 1, (n // 10 + n) % 10 + 11
        data = b"thymus %d " % n + bytes(n % 251 for _ in range(60 + n % 900))
        udp = struct.pack(">HHHH", 4000 + n % 50, 53 if n % 4 else 123, 8 + len(data), 0) + data
        head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), n & 0xffff, 0, 64, 17, 0, bytes((10, network, 0, source)), bytes((10, network, 0, target)))
        made.append(bytes((2, network, 0, 0, 0, target, 2, network, 0, 0, 0, source)) + b"\x08\0" + head + udp)
    return made


class Appliance:
    """A guest; it may be booted again on other hardware."""

    def __init__(self, rig, name, image, size):
        self.rig, self.name, self.ssh, self.disk = rig, name, free_port(), rig.room / f"{name}.qcow2"
        self.wire_at, self.line_at, self.monitor_at = (rig.room / f"{name}.{what}" for what in ("wire", "line", "monitor"))
        self.seen, self.line, self.wire = "", None, None
        rig.machines.append(self)
        form = "vmdk" if str(image).endswith("vmdk") else "qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", image, self.disk, size], check=True)

    def grow(self, size):
        subprocess.run(["qemu-img", "resize", "-q", self.disk, size], check=True)

    def boot(self, disk, card, uefi=False, forward=None, span=True, extra=()):
        for path in (self.wire_at, self.line_at, self.monitor_at):
            path.unlink(missing_ok=True)
        ports = f"hostfwd=tcp:127.0.0.1:{self.ssh}-:22" + (f",hostfwd=tcp:127.0.0.1:{forward}-:443" if forward else "")
        self.began = time.monotonic()
        self.process = self.rig.start(
            "qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "2", "-m", "3072", "-display", "none", "-no-reboot",
            *(["-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE}"] if uefi else []),
            "-drive", f"file={self.disk},if=none,id=d", *DISKS[disk],
            "-chardev", f"socket,id=line,server=on,wait=off,path={self.line_at}", "-serial", "chardev:line",
            "-netdev", f"user,id=m,{ports}", "-device", f"{card},netdev=m,romfile=,addr=5",
            "-netdev", f"stream,id=s,server=on,addr.type=unix,addr.path={self.wire_at}", *(["-device", f"{card},netdev=s,romfile=,addr=6"] if span else []),
            "-monitor", f"unix:{self.monitor_at},server=on,wait=off", *extra)
        until(20, f"{self.name} has its wire and its line", lambda: self.wire_at.exists() and self.line_at.exists() and self.monitor_at.exists())
        self.wire, self.line = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.wire.connect(str(self.wire_at))
        self.line.connect(str(self.line_at))
        threading.Thread(target=self._listen, args=(self.line,), daemon=True).start()

    def _listen(self, line):
        try:
            while data := line.recv(65536):
                self.seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", data.decode(errors="replace")).replace("\r", "")
        except OSError:
            pass

    def monitor(self, command):
        """A command to QEMU, as a hand at the machine: a cable, a card."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(30)
            line.connect(str(self.monitor_at))
            said = b""
            for words in ("", command + "\n"):
                line.sendall(words.encode())
                at = len(said)
                while not said[at:].endswith(b"(qemu) "):
                    said += line.recv(4096)
        said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said[at:].decode(errors="replace")).splitlines()[1:-1]
        if said:
            raise Failed(f"{self.name}: QEMU says to '{command}': {said}")

    def look(self):
        """A fresh screen of the console."""
        at = len(self.seen)
        self.line.sendall(b"\n")
        return until(90, f"{self.name}: the console shows its menu", lambda: "9 Power off" in self.seen[at:] and self.seen[at:])

    def type(self, *answers):
        """A key of the menu, then answers, each after its question."""
        for answer in answers:
            at = len(self.seen)
            self.line.sendall(answer.encode() + (b"" if len(answer) == 1 else b"\n"))
            until(150, f"{self.name}: the console goes on after '{answer.strip() or 'Enter'}'", lambda: re.search(r"(: |9 Power off)\s*$", self.seen[at:]))

    def tell(self, command):
        done = subprocess.run(["ssh", "-q", "-i", self.rig.room / "key", "-p", str(self.ssh), "-o", "StrictHostKeyChecking=no",
                               "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=10", "root@127.0.0.1", command],
                              capture_output=True, timeout=240)
        return done.returncode, done.stdout + (done.stderr if done.returncode else b"")

    def must(self, command):
        status, said = self.tell(command)
        if status != 0:
            raise Failed(f"{self.name}: '{command}' ends with {status}: {said[-300:]!r}")
        return said.decode(errors="replace").strip()

    def inject(self, made):
        start = time.monotonic()
        for n, frame in enumerate(made):
            wait = n / RATE - (time.monotonic() - start)
            if wait > 0:
                time.sleep(wait)
            self.wire.sendall(struct.pack(">I", len(frame)) + frame)

    def off(self):
        self.tell("systemctl poweroff")
        if self.process.wait(120) != 0:
            raise Failed(f"{self.name} does not power off cleanly")


def iso(room, name, label, **files):
    """A CD-ROM with files, as plain as the tools that make them."""
    folder = pathlib.Path(room) / f"{name}.d"
    folder.mkdir()
    for file, text in files.items():
        (folder / file.replace("_dot_", ".").replace("_", "-")).write_text(text)
    out = pathlib.Path(room) / f"{name}.iso"
    subprocess.run(["genisoimage", "-quiet", "-J", "-r", "-V", label, "-o", out, folder], check=True)
    return ["-cdrom", str(out)]
