// Distances between points and lines.

/** From a point to a segment. @param {number[]} point @param {number[]} a @param {number[]} b */
export function segmentDistance([x, y], [ax, ay], [bx, by]) {
  const dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy;
  const along = length ? Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / length)) : 0;
  return Math.hypot(x - ax - along * dx, y - ay - along * dy);
}

/** From a point to a line through points. @param {number[][]} points @param {number[]} point */
export function lineDistance(points, point) {
  let nearest = segmentDistance(point, points[0], points[0]);
  for (let i = 1; i < points.length; i += 1) nearest = Math.min(nearest, segmentDistance(point, points[i - 1], points[i]));
  return nearest;
}

/** The box with two corners, to a tenth of a pixel. @param {number[]} a @param {number[]} b @returns {number[]} x0, y0, x1, y1 */
export function boxBetween([ax, ay], [bx, by]) {
  return [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)].map(tenth);
}

/** @param {number} value */
export function tenth(value) {
  return Math.round(value * 10) / 10;
}
