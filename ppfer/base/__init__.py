"""The ground floor, which knows nothing of faces: errors, files, the device, processes, progress,
weights.
"""
