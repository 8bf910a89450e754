"""Labels that are calculated elsewhere: tasks, executors and the files by which none is lost."""
