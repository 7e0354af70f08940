"""The engine blocks: raw images, such as disks of virtual machines and volumes."""
