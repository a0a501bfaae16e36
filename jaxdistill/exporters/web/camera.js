// The camera: hands over the newest frame whenever the last one has been dealt with.

const REASONS = {
  NotAllowedError: "The camera was not allowed. Allow it for this page in the browser's address bar or " +
    "settings, and open it again.",
  NotFoundError: "This device has no camera, or it is switched off.",
  NotReadableError: "The camera is in use by another program. Close that, and open the camera again.",
};

function end(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
  return false;
}

export class Camera {
  /** `video` plays the stream; `handle(bitmap)` gets a frame, and `next` asks for another one. */
  constructor(video, handle) {
    Object.assign(this, { video, handle, open: false, devices: [], device: null, facing: "user" });
    this.fresh = this.busy = false;
    this.starts = 0; // and stops: what began before the last one is out of date
  }

  get others() {
    return this.devices.length > 1;
  }

  /** Whether the picture is of the person before the screen, who expects a mirror. */
  get faces() {
    const [track] = this.video.srcObject?.getVideoTracks() ?? [];
    return (track?.getSettings().facingMode ?? "user") === "user";
  }

  /** Returns whether the camera is open: it is not if it was stopped or started again meanwhile. */
  async start() {
    const { mediaDevices } = navigator;
    if (!mediaDevices) {
      throw new Error("The browser gives the camera only to pages from https:// or localhost.");
    }
    this.stop();
    const own = this.starts;
    const which = this.device ? { deviceId: { exact: this.device } } : { facingMode: this.facing };
    let stream = null;
    try {
      stream = await mediaDevices.getUserMedia({
        audio: false,
        video: { ...which, width: { ideal: 960 }, height: { ideal: 720 } },
      });
      if (own !== this.starts) return end(stream);
      this.video.srcObject = stream;
      await this.video.play();
    } catch (error) {
      if (own !== this.starts) return end(stream);
      this.stop();
      this.device = null; // it may have been unplugged
      throw new Error(REASONS[error.name] ?? `The camera does not start (${error.message}).`);
    }
    const [track] = stream.getVideoTracks();
    track.onended = () => this.video.dispatchEvent(new Event("ended"));
    const found = await mediaDevices.enumerateDevices();
    if (own !== this.starts) return false;
    this.devices = found.filter(({ kind }) => kind === "videoinput").map(({ deviceId }) => deviceId);
    this.open = true;
    this.busy = false;
    this.#watch(stream);
    return true;
  }

  /** Closes the camera, also one that is about to open. */
  stop() {
    this.starts += 1;
    end(this.video.srcObject);
    this.video.srcObject = null;
    this.open = false;
  }

  /** Chooses another camera: of a phone the other side's, else the next one. */
  turn() {
    const [track] = this.video.srcObject?.getVideoTracks() ?? [];
    const { facingMode, deviceId } = track?.getSettings() ?? {};
    if (facingMode) {
      this.device = null;
      this.facing = facingMode === "user" ? "environment" : "user";
    } else {
      this.device = this.devices[(this.devices.indexOf(deviceId) + 1) % this.devices.length];
    }
  }

  /** The last frame has been dealt with. */
  next() {
    this.busy = false;
    this.#hand();
  }

  #watch(stream) {
    if (this.video.srcObject !== stream) return; // closed, or another one since
    this.fresh = true;
    this.#hand();
    const again = () => this.#watch(stream);
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(again);
    else requestAnimationFrame(again);
  }

  async #hand() {
    if (!this.open || this.busy || !this.fresh || !this.video.videoWidth) return;
    this.busy = true;
    this.fresh = false;
    const bitmap = await createImageBitmap(this.video).catch(() => null); // between two streams
    if (bitmap && this.open) return this.handle(bitmap);
    bitmap?.close();
    this.busy = false;
  }
}
