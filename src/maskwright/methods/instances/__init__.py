"""Instance segmentation: losses, distillation from SAM, pseudo-labels, detections and COCO's scores (S⁴M)."""
