"""The sound of one video, added to another: copied where mp4 takes it as it is, else made AAC."""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ppfer.video.reader import probe

COPIED = ("aac", "mp3", "alac", "ac3", "eac3")  # what mp4 and its players take
GAP = Fraction(1, 10)  # seconds; a longer one is filled with silence


class Sound(contextlib.AbstractContextManager):
    """Sound on its way from a file to a container; a context manager that closes the file."""

    def __init__(self, path: Path, target: av.container.OutputContainer) -> None:
        """Adds a stream to `target`, unless the file has no sound."""
        self.target, self.start = target, probe(path).start
        self.source = av.open(os.path.abspath(path), metadata_errors="ignore")
        known = [s for s in self.source.streams.audio if s.codec_context is not None]
        self.old, self.new, self.waiting = known[0] if known else None, None, None
        if self.old is None:
            return
        context = self.old.codec_context
        name = context.codec.canonical_name
        # AAC from MPEG-TS comes without the header that mp4 needs
        self.copied = name in COPIED and bool(context.extradata or name != "aac")
        if self.copied:
            self.new = target.add_stream_from_template(self.old)
        else:
            self.rate = context.sample_rate or 48_000
            self.layout = "mono" if context.layout.nb_channels == 1 else "stereo"
            self.new = target.add_stream("aac", rate=self.rate, layout=self.layout)
            self.resampler = av.AudioResampler("fltp", self.layout, self.rate)
            self.written = 0  # samples

    def begin(self, time: Fraction) -> None:
        """Says that the first frame written is of this moment of the file, in seconds."""
        self.start += time
        self.pieces = self._pieces()
        self.waiting = next(self.pieces, None)

    def _pieces(self) -> Iterator[tuple[Fraction, av.Packet | av.AudioFrame]]:
        """(seconds since the first frame written, packet or decoded piece), in order."""
        last = None
        if self.new is None:
            return
        with contextlib.suppress(av.FFmpegError, OSError):  # damaged sound ends early
            for packet in self.source.demux(self.old):
                for piece in [packet] if self.copied else self._decoded(packet):
                    stamp = piece.pts if piece.pts is not None else piece.dts
                    if stamp is not None and (last is None or stamp > last):
                        last, time = stamp, stamp * piece.time_base - self.start
                        if time >= 0:
                            yield time, piece

    def _decoded(self, packet: av.Packet) -> list[av.AudioFrame]:
        try:
            return packet.decode()
        except (av.FFmpegError, ValueError):
            return []

    def give(self, until: Fraction) -> None:
        """Adds what is to be heard before a moment."""
        while self.waiting and self.waiting[0] < until:
            time, piece = self.waiting
            if self.copied:
                piece.pts = piece.dts = round(time / piece.time_base)
                piece.stream = self.new
                self.target.mux(piece)
            else:
                self._encode(time, piece)
            self.waiting = next(self.pieces, None)

    def _encode(self, time: Fraction, piece: av.AudioFrame) -> None:
        """Sample after sample, since the stamps of many files are too coarse for the encoder."""
        missing = round((time - Fraction(self.written, self.rate)) * self.rate)
        if missing > GAP * self.rate:
            silence = np.zeros((1 if self.layout == "mono" else 2, missing), np.float32)
            self._samples(av.AudioFrame.from_ndarray(silence, "fltp", self.layout))
        piece.pts = None
        try:
            resampled = self.resampler.resample(piece)
        except ValueError:  # its form changed midway
            self.resampler = av.AudioResampler("fltp", self.layout, self.rate)
            resampled = self.resampler.resample(piece)
        for samples in resampled:
            self._samples(samples)

    def _samples(self, samples: av.AudioFrame) -> None:
        samples.sample_rate, samples.time_base = self.rate, Fraction(1, self.rate)
        samples.pts = self.written
        self.written += samples.samples
        self.target.mux(self.new.encode(samples))

    def end(self) -> None:
        """Adds what the encoder still holds."""
        if self.new is not None and not self.copied:
            self.target.mux(self.new.encode(None))

    def __exit__(self, *_: object) -> None:
        self.source.close()
