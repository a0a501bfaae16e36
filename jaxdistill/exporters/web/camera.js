// The camera: hands over the newest frame whenever the last one has been dealt with.

const REASONS = {
  NotAllowedError: "The camera was not allowed. Allow it for this page in the browser's address bar or " +
    "settings, and open it again.",
  NotFoundError: "This device has no camera, or it is switched off.",
  NotReadableError: "The camera is in use by another program. Close that, and open the camera again.",
};

export class Camera {
  /** `video` plays the stream; `handle(bitmap)` gets a frame, and `next` asks for another one. */
  constructor(video, handle) {
    Object.assign(this, { video, handle, open: false, others: false, facing: "user" });
    this.fresh = this.busy = false;
  }

  /** Whether the picture is of the person before the screen, who expects a mirror. */
  get faces() {
    const [track] = this.video.srcObject?.getVideoTracks() ?? [];
    return (track?.getSettings().facingMode ?? "user") === "user";
  }

  async start() {
    const { mediaDevices } = navigator;
    if (!mediaDevices) {
      throw new Error("The browser gives the camera only to pages from https:// or localhost.");
    }
    this.stop();
    try {
      this.video.srcObject = await mediaDevices.getUserMedia({
        audio: false,
        video: { facingMode: this.facing, width: { ideal: 960 }, height: { ideal: 720 } },
      });
      await this.video.play();
    } catch (error) {
      this.stop();
      throw new Error(REASONS[error.name] ?? `The camera does not start (${error.message}).`);
    }
    const [track] = this.video.srcObject.getVideoTracks();
    track.onended = () => this.video.dispatchEvent(new Event("ended"));
    const devices = await mediaDevices.enumerateDevices();
    this.others = devices.filter(({ kind }) => kind === "videoinput").length > 1;
    this.open = true;
    this.busy = false;
    this.#watch(this.video.srcObject);
  }

  stop() {
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
    this.open = false;
  }

  turn() {
    this.facing = this.facing === "user" ? "environment" : "user";
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
